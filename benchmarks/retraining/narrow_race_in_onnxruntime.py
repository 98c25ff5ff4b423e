"""How much faster ONNX Runtime runs the headline's narrow network than the dense one: measured, at batch 1 and 32.

The weights are those of the demo's dense network, a quarter of its channels kept, without retraining: speed does not
depend on them. Accuracy is the headline's business.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import shrinkwidget as sw
from shrinkwidget import demo

from ..machine_info_and_wait_for_calm import hardware
from .headline_cross_validation import NARROW, SETTINGS

TARGETS: Final = {"batch 32": 2.3, "fewer multiply-accumulates": 15}
ROUNDS: Final = 60


def measure(path: Path, rounds: int) -> str:
    """Export both networks, race them, write what came of it, and return the race as text."""
    model, x = demo.model().eval(), demo.data("test")[0][:32]
    channels, bits = SETTINGS[NARROW]["channels"][0], SETTINGS[NARROW]["bits"][0]
    narrow = sw.compress(model, channels=channels, bits=32, example=x[:1])
    assert narrow.model is not None
    assert narrow.macs is not None
    assert narrow.original_macs is not None
    small = sw.compress(sw.fold_batchnorm(narrow.model), bits=bits, granularity="tensor", uncompressed_bits=16)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.onnx") for name in ("dense", "narrow")}
        exported = {
            "dense": sw.compress(model, bits=32).export(files["dense"], example=x[:1]),
            "narrow": small.export(files["narrow"], example=x[:1]),
        }
        race = sw.race(files, x, batch=(1, 32), rounds=rounds, seconds=120, progress=False)
    found: dict[str, Any] = {
        "machine": hardware("torch", "onnxruntime"),
        "setting": NARROW,
        "targets": TARGETS,
        "fewer multiply-accumulates": round(narrow.original_macs / narrow.macs, 2),
        "file bytes, ONNX": {name: file.nbytes for name, file in exported.items()},
        "race": race.to_dict(),
    }
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(race)
