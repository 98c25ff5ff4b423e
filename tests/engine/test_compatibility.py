"""Other people's architectures, from measuring to transfer; `make compatibility` tries sixty of them."""

from __future__ import annotations

import warnings

import pytest

from benchmarks.compatibility.architectures import architectures
from benchmarks.compatibility.checks import STEPS, check

pytest.importorskip("transformers")
TRIED = ("LSTM", "U-Net", "BERT", "GPT-2 (Conv1D, tied)", "Mixtral (experts)", "T5", "ViT", "depthwise convolutions")


@pytest.mark.parametrize("name", TRIED)
def test_every_step_is_right(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        architecture = next(found for found in architectures() if found.name == name)
        row = check(architecture)
    expected = dict.fromkeys(STEPS, "yes") | dict.fromkeys(("sketch", "compress", "save", "load"), "5/5")
    found = {step: verdict for step, verdict in row.verdicts.items() if verdict != "–"}
    assert found == {step: expected[step] for step in found}, row.reasons
    assert len(found) >= 7
