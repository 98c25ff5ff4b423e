"""The browser's core in Node, without drawing: what one step of a drag costs in the estimator."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import ROOT, Figure, Row

SHOWN = (
    "4 bits per channel",
    "codebook of 4 bits",
    "decode the sketch, first estimate",
    "pictures of 30 layers, 4 bits per channel",
)


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    calm()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core.json"
        script = str(ROOT / "benchmarks" / "browser_estimator.mjs")
        subprocess.run(["node", script, str(path)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        found = json.loads(path.read_text())
    for figure in found["figures"]:
        if figure["what"] in SHOWN:
            words = f"preview in the browser, {found['layers']} layers: {figure['what']}"
            yield Row(words, Figure(tuple(figure["times"])), "ms")
