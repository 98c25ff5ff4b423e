"""Settings of the documentation site: `make docs` builds it from the very pages that GitHub shows.

Sphinx's source folder is the repository, so README, changelog and the pages of `docs/` link to each other, to notebooks
and to figures by relative paths that work in both places. What Sphinx and GitHub do differently is evened out below.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.osutil import relative_uri

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import shrinkwidget  # noqa: E402  # from this checkout, whatever is installed

project = "shrinkwidget"
version = release = shrinkwidget.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "dist", "node_modules", "shrinkwidget", "js", "tests"]  # not even looked into
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4  # GitHub's anchors, so that page.md#heading works there and here

default_role = "py:obj"  # docstrings write names of objects in single backticks
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # "Args" say what each takes; with types a signature would fill a page
autosummary_generate = False
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"shrinkwidget {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

_OPENED: Final = (".html", ".pdf")
"""Linked files that a browser shows, and should not download."""


class LightAndDarkPictures(SphinxTransform):
    """Turns GitHub's ``<picture>``, which follows the system, into two images that follow the site's own switch."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        """Replace every raw ``<picture>`` of a page."""
        for raw in list(self.document.findall(nodes.raw)):
            html = raw.astext()
            if not html.lstrip().startswith("<picture>"):
                continue
            (dark,), (light,) = (re.findall(rf'{name}="([^"]+)"', html) for name in ("srcset", "src"))
            (alt,) = re.findall(r'alt="([^"]+)"', html)
            found = (("only-light", light), ("only-dark", dark))
            raw.replace_self([nodes.image(uri=uri, alt=" ".join(alt.split()), classes=[shown]) for shown, uri in found])


def without_signature(_app: Sphinx, what: str, _name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """Show no arguments of a class that users never make: its docstring says none."""
    return ("", None) if what == "class" and "Args:" not in (inspect.getdoc(obj) or "") else None


def named_as_users_do(_app: Sphinx, tree: nodes.document) -> None:
    """Write ``sw.methods.KMeans`` in signatures and lists, and the bare name of a class that has no public module."""
    for name in tree.findall(nodes.Element):
        if not isinstance(name, addnodes.desc_addname) and "py-obj" not in name.get("classes", ()):
            continue
        text = re.sub(r"^shrinkwidget\.(widgets|training|transfer_learning)\.(\w+\.)", "", name.astext())
        name[:] = [nodes.Text(re.sub(r"^shrinkwidget\.", "sw.", text))]


def named_elsewhere(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Link the name of a public object from the docstring of another module, where it stands without its own."""
    if node.get("refdomain") != "py":
        return None
    for place in ("", "results.", "methods.", "errors.", "figures.", "workshop."):
        if (name := f"shrinkwidget.{place}{node['reftarget']}") in env.domains.python_domain.objects:
            return env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, text)
    return None


def opened_in_the_browser(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Make links to linked files that a browser can show plain ones."""
    for link in list(tree.findall(addnodes.download_reference)):
        if link["reftarget"].endswith(_OPENED) and "filename" in link:
            uri = relative_uri(app.builder.get_target_uri(page), f"_downloads/{link['filename']}")
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def front_door(app: Sphinx, error: Exception | None) -> None:
    """Write the index.html that one opens, beside the folders that mirror the repository's."""
    if error is None and app.builder.format == "html":
        go = f'<meta http-equiv="refresh" content="0; url={root_doc}.html"><a href="{root_doc}.html">{project}</a>'
        page = f'<!doctype html><meta charset="utf-8"><title>{project}</title>{go}\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the above."""
    app.add_transform(LightAndDarkPictures)
    app.connect("autodoc-process-signature", without_signature)
    app.connect("doctree-read", named_as_users_do)
    app.connect("missing-reference", named_elsewhere)
    app.connect("doctree-resolved", opened_in_the_browser)
    app.connect("build-finished", front_door)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
