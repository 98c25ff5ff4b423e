"""Pages that stay alive without a kernel: one HTML file that holds an explorer, or a monitor, and all it needs.

No network, no fonts, no images: the built script and style sheet are written into the page, and beside them the sketch
and what was known of it. `docs/architecture.md` says how such a page differs from the widget.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final, Unpack

from .analysis.model_summary import bytes_text
from .analysis.open_model_tensors_and_channel_axes import Source, Stated, open_model
from .analysis.sketch import Sketch
from .analysis.sketch import sketch as sketch_of
from .argument_checks import public
from .errors import ArgumentError, FileError, ShrinkError, TrainingError, quoted
from .evaluation.evaluate_and_metrics import resolve
from .figures.monitor_snapshot_png import values_of
from .files.atomic_write import write_whole
from .recipe_and_method_registry import Recipe, RecipeFields, every_setting, recipe_from, schema
from .training.retrain_and_training_run import TrainingRun

LIMIT: Final = 25_000_000
"""The most bytes of a page: browsers take more, but mail, wikis and repositories do not."""
_STATIC: Final = Path(__file__).parent / "widgets" / "static"
_SUFFIXES: Final = (".html", ".htm")

# Nothing may be fetched, so nothing can leak: neither by a name that is markup after all, nor by a mistake of ours.
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="shrinkwidget">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<div id="here"><noscript>{summary}; this page needs JavaScript to show more.</noscript></div>
</main>
<script type="text/plain" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


@public(fields_of=[RecipeFields], also=every_setting)
def to_html(
    model: Source | Sketch,
    path: str | os.PathLike[str],
    recipe: Recipe | float | None = None,
    *,
    title: str | None = None,
    layout: Stated = None,
    **fields: Unpack[RecipeFields],
) -> int:
    """Write an explorer of a model as one HTML file that needs no kernel and no network, and return its bytes.

    Sliders, layers, size and overrides work as in a notebook; all figures are estimates, marked with ≈, and there is no
    accuracy. `Explorer.to_html` writes the exact figures and the accuracies, too, that its kernel had found out.

    A link opens the page with another recipe: ``"page.html#recipe=" + urllib.parse.quote(recipe.to_json())``.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.to_html(sw.demo.model(), "digits.html", sparsity=0.9, bits=4) < 500_000
        True

    Args:
        model: a `Sketch`, or what one is made of: a module, a state dict, the path of a checkpoint.
        path: where to write; its name ends in ".html". The file appears whole or not at all.
        recipe: where the page starts: a `Recipe`, or a number: the sparsity.
        title: what the page is called; by default the class or the file of the model.
        layout: of what is no sketch yet; see `sketch`.
        fields: of a `Recipe`; beside a recipe they change it.

    Raises:
        FileError: if the path cannot be written or is no HTML file's, or the page would be larger than 25 MB; what was
            there before is unchanged.
        RecipeError: for what is no recipe, or does not fit the model.
        ModelError: for a model that cannot be looked at; see `sketch`.
        ArgumentError: for an unknown keyword, or a `layout` beside a sketch, which has its own.
    """
    asked = recipe_from(recipe, fields, default=Recipe())
    if isinstance(model, Sketch) and layout is not None:
        raise ArgumentError("a sketch has its layout already: give layout=… to sketch(…), or the model in its place")
    values: dict[str, Any] = {"kinds": schema(), "glossary": glossary_address()}
    if not isinstance(model, Sketch):
        weights = open_model(model, layout=layout)
        values["memory"] = {"weights": sum(entry.nbytes for entry in weights.entries), "activations": None}
        model = sketch_of(weights)
    model.plans(asked)
    values["title"] = title or model.title
    return write_page(path, explorer_page(model, asked, values, known={}, results={}))


def explorer_page(
    sketch: Sketch,
    recipe: Recipe,
    values: Mapping[str, Any],
    known: Mapping[Recipe, Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return an explorer as an HTML page.

    Args:
        sketch: of the model.
        recipe: where the page starts.
        values: what else a kernel tells its explorer, its title at least; see js/explorer/host-interface.ts.
        known: what a kernel has found out about recipes: ``exact``, the figures, and ``score``, both as plain dicts.
        results: the same of retrained models, with their ``recipe``, by the key that the history names them with.

    Raises:
        FileError: if the page would be larger than 25 MB.
    """
    blob = sketch.encode()
    data = {
        "recipe": recipe.to_json(),
        "values": values,
        "known": {of.to_json(): what for of, what in known.items()},
        "results": dict(results),
    }
    title = str(values["title"])
    page = _page("explorer-page", title, f"{title}, compressed by {recipe!r}", _plain_json(data), blob)
    if len(page) > LIMIT:
        layers, visits = len(sketch.layers), len(values.get("history", ()))
        # Deflated apart they take about what they take together: enough to say which of the two to leave out.
        sizes = f"the sketch of {layers:,} layers takes {bytes_text(len(_packed(b'', blob)))}"
        cure = "make a page of a part of the model, such as sw.to_html(model.layer4, path)"
        if visits:
            sizes += f", the history of {visits:,} recipes {bytes_text(len(_packed(_plain_json(data), b'')))}"
            cure = f"leave the history out with history=False, or {cure}"
        raise FileError(
            f"a page of {bytes_text(len(page))} is too large, {bytes_text(LIMIT)} are the most: {sizes}; {cure}"
        )
    return page


def glossary_address() -> str:
    """Return where the glossary is on the web, "" if the package names no documentation (``[project.urls]``)."""
    try:
        told = metadata("shrinkwidget").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    urls = dict(line.split(", ", 1) for line in told)
    site = urls.get("Documentation", "")
    return f"{site.rstrip('/')}/glossary.html" if site else ""


def run_page(run: TrainingRun[Any]) -> str:
    """Return the monitor of a training as an HTML page, as far as it has come.

    Raises:
        TrainingError: for one that does not train, or has no complete epoch.
    """
    if not run.spec.trains:
        raise TrainingError("RecalibrateBatchNorm is over in one pass: there are no curves to make a page of")
    if not run.history:
        raise TrainingError(
            f"this training is {run.state} and has no complete epoch to make a page of"
            + ("" if run.over else ": run.wait() for it first")
        )
    spec = run.spec
    about = {
        "title": type(spec.model).__name__,
        "method": spec.words,
        "glossary": glossary_address(),
        "metric": resolve(spec.options.measured).to_dict(),
    }
    shown = {**about, **values_of(run)}
    summary = f"{shown['title']}, {shown['method']}: {len(run.history):,} epochs"
    return _page("monitor-page", shown["title"], summary, _plain_json(shown), b"")


def write_page(path: str | os.PathLike[str], page: str) -> int:
    """Write a page, whole or not at all, and return its bytes.

    Raises:
        FileError: if the path cannot be written or is no HTML file's; what was there before is unchanged.
    """
    if isinstance(path, str | os.PathLike) and Path(path).suffix.lower() not in _SUFFIXES:
        raise FileError(f"cannot write a page to {quoted(path)}: it is HTML, so its name must end in .html")
    return write_whole(path, [page.encode()])


# A picture follows in an output of its own, for where no page can be shown: JupyterLab before the notebook is trusted,
# GitHub, a PDF. They take the style sheet away with the frame, and a page that runs says so (`data-alive`).
_FRAME: Final = """<style>
:is(.jp-OutputArea-child, .output_area):has(> * > .shrinkwidget-page[data-alive])
+ :is(.jp-OutputArea-child, .output_area):has(> :is(.jp-RenderedImage, .output_png)) {{ display: none }}
</style>
<iframe class="shrinkwidget-page" title="{title}" style="display: block; width: 100%; height: 0; border: 0"
srcdoc="{page}"></iframe>"""


def in_frame(page: str, title: str) -> str:
    """Return an ``<iframe>`` that holds a page, for the output of a cell: it has no height until its page runs."""
    return _FRAME.format(title=html.escape(_encodable(title)), page=html.escape(page))


def _page(script: str, title: str, summary: str, data: bytes, blob: bytes) -> str:
    return _PAGE.format(
        policy=_POLICY,
        title=html.escape(_encodable(title)),
        summary=html.escape(_encodable(summary)),
        style=_built(f"{script}.css"),
        script=_built(f"{script}.js"),
        data=_packed(data, blob),
    )


def _packed(data: bytes, blob: bytes) -> str:
    """Return JSON and what follows it as base64 of deflate, which holds no markup, whatever the names in it are."""
    # Length of the JSON, JSON, sketch: read back by js/live/page-data.ts.
    return base64.b64encode(zlib.compress(struct.pack("<I", len(data)) + data + blob, 9)).decode()


def _plain_json(values: Any) -> bytes:
    return json.dumps(_finite(values), separators=(",", ":"), allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """Return plain values with None for what is not finite, as JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _encodable(text: str) -> str:
    """Return text with halves of surrogate pairs, which UTF-8 has not, replaced."""
    return text.encode(errors="replace").decode()


def _built(name: str) -> str:
    """Return a built script or style sheet; js/build.mjs sees to it that it may stand inside its element."""
    try:
        return (_STATIC / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ShrinkError(
            "shrinkwidget's JavaScript is not built: run 'npm ci' and 'npm run build' in the checkout"
        ) from error
