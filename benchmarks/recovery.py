"""What recovery without retraining wins back at equal bytes: `recover` beside `compress` and batch norm alone.

``python -m benchmarks.recovery [--data ../shared/data]`` prints rows and writes ``recovery.json``: of the embedded
network, of the ResNet-20 for CIFAR-10 where the folder has it, and of a small language model where transformers is
installed. The examples are training images, or 256 windows of the text that was trained on; scores are those of test
images, and the perplexity of held-out text. Seconds are of a CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import shrinkwidget as sw

from .language_model_trained_on_docs import language_model, perplexity, text
from .machine_info_and_wait_for_calm import describe
from .methods_compared import CALIBRATION, Subject, accuracy, subjects

FILE: Final = Path(__file__).with_suffix(".json")
RECIPES: Final = (
    sw.Recipe(bits=3),
    sw.Recipe(bits=2),
    sw.Recipe(sparsity=0.8),
    sw.Recipe(sparsity=0.8, bits=4),
    sw.Recipe(sparsity=0.9, bits=4),
)


def rows(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the accuracies under every recipe."""
    for recipe in RECIPES:
        plain = sw.compress(subject.network, recipe)
        norms = sw.retrain(plain, subject.calibration, method="recalibrate_batchnorm", progress=False)
        start = time.process_time()
        small = sw.recover(subject.network, subject.calibration, recipe, progress=False)
        seconds = time.process_time() - start
        codes = sw.recover(
            subject.network,
            subject.calibration,
            recipe,
            methods=["error_compensation", "bias_correction"],
            progress=False,
        )
        assert small.nbytes == codes.nbytes == plain.nbytes
        yield {
            "network": subject.name,
            "recipe": recipe.to_dict(),
            "nbytes": small.nbytes,
            "compress": accuracy(plain, subject),
            "batch norm": accuracy(norms, subject),
            "error compensation, bias correction": accuracy(codes, subject),
            "recover": accuracy(small, subject),
            "seconds": round(seconds, 1),
        }


KEPT: Final = {"*wte*": sw.Keep, "*wpe*": sw.Keep}
LANGUAGE_RECIPES: Final = (
    sw.Recipe(bits=4, layers=KEPT),
    sw.Recipe(bits=3, layers=KEPT),
    sw.Recipe(bits=2, layers=KEPT),
    sw.Recipe(sparsity=0.5, bits=4, layers=KEPT),
)
WINDOWS: Final = 256


def language_rows() -> Iterator[dict[str, Any]]:
    """Yield the perplexities of the language model under every recipe; its embeddings stay as they are."""
    network, (train, held_out) = language_model(), text()
    examples = [{"input_ids": ids} for ids in train[:: len(train) // WINDOWS][:WINDOWS].split(32)]
    for recipe in LANGUAGE_RECIPES:
        plain = sw.compress(network, recipe)
        start = time.process_time()
        small = sw.recover(network, examples, recipe, examples=WINDOWS, progress=False)
        seconds = time.process_time() - start
        assert small.nbytes == plain.nbytes
        yield {
            "network": "GPT-2 of 4 layers, characters of the docs",
            "metric": "perplexity",
            "recipe": recipe.to_dict(),
            "nbytes": small.nbytes,
            "compress": perplexity(plain),
            "recover": perplexity(small),
            "seconds": round(seconds, 1),
            "dense": perplexity(network),
            "n": held_out.numel(),
        }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="the folder of ResNet-20 and its images"
    )
    found = []
    for subject in subjects(parser.parse_args().data):
        dense = round(sw.evaluate(subject.network, subject.test).value, 4)
        for row in rows(subject):
            found.append(row | {"dense": dense, "n": len(subject.test[1])})
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if find_spec("transformers"):
        for row in language_rows():
            found.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    FILE.write_text(json.dumps({"machine": describe(), "examples": CALIBRATION, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
