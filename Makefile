# Everything a contributor types; `make help` lists it.

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install $(shell test -t 2 || echo --quiet --quiet) --constraint constraints.txt
STATIC  := shrinkwidget/widgets/static/explorer.js
STAGE   := @sh scripts/stage.sh
# the site, from the pages in docs/, without a warning; then every link and anchor in it
SITE    := $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/docs \
           && $(BIN)/python scripts/check_site_links.py build/docs
# two processes of one thread each are quicker than one of two: what is tested is small
APART   := env OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist

.PHONY: help demo test bench compatibility mutants pictures gallery docs site clean setup lint types layers typescript python notebooks browser chromium pins
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /make \1\t/p' Makefile | expand -t 18

demo: $(VENV)/ready-jupyter $(STATIC)  ## JupyterLab on examples/01-explore.ipynb
	@$(BIN)/python scripts/open_first_example.py $(ARGS)

test: chromium $(VENV)/ready-test $(STATIC)  ## everything CI checks: lint, types, tests, notebooks, the widget in JupyterLab
	@$(MAKE) --keep-going --no-print-directory lint types layers site typescript python notebooks browser

bench: $(VENV)/ready-bench $(STATIC)  ## the numbers of the README, side by side with what a user would otherwise use
	@$(BIN)/python -m benchmarks $(ARGS)

compatibility: $(VENV)/ready-bench $(STATIC)  ## docs/compatibility.md: architectures of torch, transformers and timm
	@$(BIN)/python -m benchmarks.compatibility $(ARGS)

mutants: chromium $(VENV)/ready-test $(STATIC)  ## plant faults, one at a time: do the tests notice?
	@$(BIN)/python -m tests.mutation.run_mutants $(ARGS)

pictures: chromium $(VENV)/ready-test $(STATIC)  ## docs/images again, from a real JupyterLab, light and dark
	@$(BIN)/python -m tests.widget.readme_pictures

gallery: $(VENV)/ready-test $(STATIC)  ## docs/gallery anew
	@$(BIN)/python scripts/write_demo_page.py
	@$(BIN)/python -m scripts.draw_gallery $(ARGS)

docs: $(VENV)/ready-docs $(STATIC)  ## the documentation, readable without a network: build/docs/index.html
site: $(VENV)/ready-test $(STATIC)  ## the same, as a stage of make test
docs site:
	$(STAGE) documentation sh -c '$(SITE)'

setup: $(VENV)/ready-dev $(STATIC)  ## .venv with everything a contributor needs

lint: $(VENV)/ready-test  ## ruff
	$(STAGE) "ruff check" $(BIN)/ruff check .
	$(STAGE) "ruff format" $(BIN)/ruff format --check .

types: $(VENV)/ready-test  ## mypy --strict
	$(STAGE) mypy $(BIN)/mypy

layers: $(VENV)/ready-test  ## the layers of docs/architecture.md, by import-linter
	$(STAGE) import-linter $(BIN)/lint-imports

typescript: $(STATIC)  ## tsc, biome and vitest
	$(STAGE) "tsc and biome" npm run --silent check
	$(STAGE) vitest npm run --silent test

python: $(VENV)/ready-test $(STATIC)  ## pytest, except for the notebooks and the browser
	$(STAGE) pytest $(APART) loadfile --ignore tests/widget --ignore tests/test_notebooks.py

notebooks: $(VENV)/ready-test $(STATIC)  ## every example from top to bottom
	$(STAGE) notebooks $(APART) worksteal tests/test_notebooks.py

browser: chromium $(VENV)/ready-test $(STATIC)  ## the widget in a real JupyterLab in a real Chromium
	$(STAGE) browser $(APART) loadfile tests/widget

# first of all: what no package of pip's can bring must be missed within seconds, not after everything else is installed
chromium: $(VENV)/made
	@$(BIN)/python -m tests.widget.find_or_install_chromium

pins: $(VENV)/ready-dev  ## write constraints.txt again from what .venv holds
	@$(PIP) freeze --exclude-editable | sed 's/+cpu//' | sed '1i # What CI and the demo install, to the version. Renew with: make pins' > constraints.txt

clean:  ## remove what was built and installed
	rm -rf $(VENV) node_modules build dist shrinkwidget/widgets/static shrinkwidget/labextension shrinkwidget/analysis/cpu_kernel.lib .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What is installed is stamped, so that nothing is installed again before its list changes.

$(VENV)/made: scripts/find-python.sh
	@python=$$(sh scripts/find-python.sh) && echo "making $(VENV) with $$python" && $$python -m venv $(VENV)
	@# the yarn that JupyterLab ships is CommonJS; our own package.json above it would make Node read it as a module
	@echo '{}' > $(VENV)/package.json
	@touch $@

$(VENV)/ready-%: $(VENV)/made pyproject.toml constraints.txt hatch_build.py shrinkwidget/analysis/cpu_kernel.c | $(STATIC)
	@echo "installing shrinkwidget[$*] and what it needs into $(VENV)"
	@# the last two build what comes as source only (antlr4, of omegaconf)
	@$(INSTALL) hatchling editables setuptools wheel
	@$(INSTALL) --no-build-isolation --editable '.[$*]'
	@touch $@

# Not `npm ci`: it refuses a lock file that lacks an optional package for some other platform.
node_modules/.package-lock.json: package.json package-lock.json
	@sh scripts/need-node.sh
	npm install --no-save --no-audit --no-fund --silent
	@touch $@

$(STATIC): node_modules/.package-lock.json tsconfig.json $(shell find js 2>/dev/null)
	npm run --silent build
	@touch $@
