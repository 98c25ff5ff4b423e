"""What a planned recipe keeps at equal bytes: `plan` beside uniform and layer-wise recipes, LAMP and ERK.

``python -m benchmarks.planner [--data ../shared/data]`` prints rows and writes ``planner.json``: of the embedded
network, of the ResNet-20 for CIFAR-10 where the folder has it, and of a small language model where transformers is
installed. Of every method but the plan from the weights alone, bits and sparsities are tried in all pairs that fit, and
the one is kept whose outputs on 256 training examples are nearest to the dense network's; scores are those of test
examples, with batch norm recalibrated on training examples, and after `recover`. Nothing is drawn at random. Plan and
uniform recipe of the embedded network are then trained, with three seeds. With ``--part``, ``--budgets`` or
``--methods`` only these are measured, and other rows of the file stay.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

import shrinkwidget as sw
from shrinkwidget.planning.bit_allocation import allocate
from shrinkwidget.planning.output_error_of_candidates import OutputJudge, compare, judged
from shrinkwidget.planning.uniform_recipes import estimated_bytes
from shrinkwidget.results import Sketch

from .language_model_trained_on_docs import language_model, perplexity, text
from .machine_info_and_wait_for_calm import hardware
from .methods_compared import Subject, accuracy, subjects

FILE: Final = Path(__file__).with_suffix(".json")
BUDGETS: Final = {
    "embedded network": (16_000, 24_000, 33_000, 34_000, 36_000, 40_000, 48_000),
    "ResNet-20, CIFAR-10 as JPEG": (60_000, 80_000, 100_000, 120_000),
}
TRAINED: Final = (33_000, 34_000)
EPOCHS, SEEDS = 8, (0, 1, 2)
# of the language model, whose 3,276,680 bytes hold embeddings, too, which stay as they are
LANGUAGE_BUDGETS: Final = (340_000, 400_000, 500_000)
LANGUAGE: Final = sw.Recipe(layers={"transformer.w*": sw.Keep}, uncompressed_bits=16)
BITS: Final = (2, 3, 4, 5)
EXAMPLES: Final = 256

NARROWER: Final = "plan with channels"
METHODS: Final = (NARROWER, "plan", "plan from the weights alone", "uniform", "layer-wise", "LAMP", "ERK")
PARTS: Final = ("demo", "ResNet-20", "trained", "language")

Allocation = Callable[[float], Mapping[str, float]]


def lamp(subject: Subject, look: Sketch) -> Allocation:
    """Return the layers' sparsities under LAMP (Lee et al., arXiv 2010.07611) for a sparsity of all of them."""
    state = subject.network.state_dict()
    scores = {}
    for layer in look.layers:
        squares = np.sort(state[layer.name].double().square().flatten().numpy())
        # a weight's square over the sum of its own and all larger ones of the layer
        scores[layer.name] = squares / np.cumsum(squares[::-1])[::-1]
    ranked = np.sort(np.concatenate(list(scores.values())))

    def sparsities(s: float) -> dict[str, float]:
        cut = ranked[min(round(s * len(ranked)), len(ranked) - 1)]
        return {name: float((found < cut).mean()) for name, found in scores.items()}

    return sparsities


def erk(_: Subject, look: Sketch) -> Allocation:
    """Return the layers' sparsities under ERK (Evci et al., arXiv 1911.11134): density in proportion to Σ/Π sizes."""
    sizes = np.array([layer.n for layer in look.layers], dtype=float)
    raw = np.array([sum(layer.shape) / layer.n for layer in look.layers])

    def sparsities(s: float) -> dict[str, float]:
        full = np.zeros(len(raw), dtype=bool)
        while True:  # layers that would be more than dense are dense, and the others share what is left
            left = (1 - s) * sizes.sum() - sizes[full].sum()
            factor = left / max((raw * sizes)[~full].sum(), 1e-12)
            over = ~full & (factor * raw > 1)
            if not over.any():
                break
            full |= over
        density = np.where(full, 1.0, np.maximum(factor * raw, 0.005))
        return {layer.name: float(1 - d) for layer, d in zip(look.layers, density, strict=True)}

    return sparsities


def fitting(look: Sketch, allocation: Allocation | None, budget: int) -> Iterator[tuple[int, sw.Recipe]]:
    """Yield for each number of bits the least sparse recipe that fits: of an allocation, or the same in each layer."""
    for bits in BITS:

        def recipe(thousandths: int, bits: int = bits) -> sw.Recipe:
            s = thousandths / 1000
            if allocation is None:
                return sw.Recipe(s, bits, scope="layer")
            # rounded, as the text of a recipe stands in the file and counts
            layers = {
                name.removesuffix(".weight"): dict(sparsity=round(min(max(own, 0.0), 0.995), 3))
                for name, own in allocation(s).items()
            }
            return sw.Recipe(bits=bits, layers=layers)

        low, high = -1, 1000
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if estimated_bytes(look, recipe(middle)) <= budget else (middle, high)
        if high < 1000:
            yield bits, recipe(high)


def chosen(
    subject: Subject, judge: OutputJudge, look: Sketch, budget: int, methods: Collection[str]
) -> dict[str, sw.Recipe]:
    """Return the recipe of every method."""
    planned = sw.plan(subject.network, budget, subject.calibration, examples=EXAMPLES)
    assert planned.comparison is not None
    assert planned.comparison.uniform is not None
    found = {
        "plan": planned.recipe,
        "plan from the weights alone": sw.plan(look, budget).recipe,
        "uniform": planned.comparison.uniform.recipe,
    }
    for name, allocation in (("layer-wise", None), ("LAMP", lamp(subject, look)), ("ERK", erk(subject, look))):
        if name not in methods:
            continue
        recipes = fitting(look, allocation, budget)
        every = (judged(judge, look, f"{bits} bits", recipe, False, budget) for bits, recipe in recipes)
        tried = [one for one in every if one is not None]
        if tried:
            found[name] = compare(tried, judge)[0].recipe
    return {name: recipe for name, recipe in found.items() if name in methods}


def rows(subject: Subject, budgets: Collection[int], methods: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield what every method keeps at every budget."""
    look = sw.sketch(subject.network)
    judge = OutputJudge(subject.network, subject.calibration, EXAMPLES)
    example = subject.calibration[0][:1]
    for budget in (each for each in BUDGETS[subject.name] if each in budgets):
        found = chosen(subject, judge, look, budget, methods) if budget >= allocate(look).nbytes[0] else {}
        if NARROWER in methods:
            narrower = sw.plan(subject.network, budget, subject.calibration, example=example, examples=EXAMPLES)
            found[NARROWER] = narrower.recipe
        for method, recipe in found.items():
            began = time.process_time()
            small = sw.compress(subject.network, recipe, example=example)
            norms = sw.retrain(small, subject.calibration, method="recalibrate_batchnorm", progress=False)
            again = sw.recover(subject.network, subject.calibration, recipe, examples=EXAMPLES, progress=False)
            yield {
                "network": subject.name,
                "budget": budget,
                "method": method,
                "nbytes": small.nbytes,
                "recipe": recipe.to_dict(),
                "error": round(float(judge.errors(small).mean()), 4),
                "batch norm": accuracy(norms, subject),
                "recover": accuracy(again, subject),
                "seconds": round(time.process_time() - began, 1),
            }


def trained_rows(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield what plan and uniform recipe reach at the smallest budgets once they are trained, with several seeds."""
    train, valid = sw.demo.data("train"), sw.demo.data("valid")
    for budget in TRAINED:
        planned = sw.plan(subject.network, budget, subject.calibration, examples=EXAMPLES, progress=False)
        assert planned.comparison is not None
        assert planned.comparison.uniform is not None
        for method, recipe in (("plan", planned.recipe), ("uniform", planned.comparison.uniform.recipe)):
            small = sw.compress(subject.network, recipe)
            for seed in SEEDS:
                again = sw.retrain(small, train, valid, epochs=EPOCHS, seed=seed, progress=False)
                about = {"network": subject.name, "budget": budget, "method": method, "seed": seed}
                yield about | {"nbytes": again.nbytes, "retrain": accuracy(again, subject)}


def language_rows() -> Iterator[dict[str, Any]]:
    """Yield the perplexity of the language model under plan and uniform recipe, before and after `recover`."""
    network, (train, held_out) = language_model(), text()
    examples = [{"input_ids": ids} for ids in train[:: len(train) // EXAMPLES][:EXAMPLES].split(32)]
    dense = perplexity(network)
    for budget in LANGUAGE_BUDGETS:
        planned = sw.plan(network, budget, examples, examples=EXAMPLES, recipe=LANGUAGE, progress=False)
        assert planned.comparison is not None
        assert planned.comparison.uniform is not None
        methods = {
            "plan": planned.recipe,
            "plan from the weights alone": sw.plan(network, budget, recipe=LANGUAGE).recipe,
            "uniform": planned.comparison.uniform.recipe,
        }
        for method, recipe in methods.items():
            small = sw.compress(network, recipe)
            again = sw.recover(network, examples, recipe, examples=EXAMPLES, progress=False)
            yield {
                "network": "GPT-2 of 4 layers, characters of the docs",
                "budget": budget,
                "method": method,
                "nbytes": small.nbytes,
                "recipe": recipe.to_dict(),
                "perplexity": perplexity(small),
                "recover": perplexity(again),
                "dense": dense,
                "n": held_out.numel(),
            }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="the folder of ResNet-20 and its images"
    )
    parser.add_argument("--part", choices=PARTS, help="measure this part alone")
    parser.add_argument("--budgets", type=int, nargs="+", default=[b for each in BUDGETS.values() for b in each])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = json.loads(FILE.read_text())["rows"] if FILE.exists() else []

    def add(row: dict[str, Any]) -> None:
        same = ("network", "budget", "method", "seed")
        found[:] = [each for each in found if any(each.get(name) != row.get(name) for name in same)] + [row]
        shown = {name: value for name, value in row.items() if name != "recipe"}
        print(", ".join(f"{name} {value}" for name, value in shown.items()), flush=True)
        # after every row: what was measured is not lost where it is stopped
        whole = {"machine": hardware("torch", "numpy"), "examples": EXAMPLES, "epochs": EPOCHS, "rows": found}
        FILE.write_text(json.dumps(whole, indent=1) + "\n")

    for subject, part in zip(subjects(asked.data), PARTS, strict=False):
        dense = {"dense": round(sw.evaluate(subject.network, subject.test).value, 4), "n": len(subject.test[1])}
        if asked.part in (None, part):
            for row in rows(subject, asked.budgets, asked.methods):
                add(row | dense)
        if part == "demo" and asked.part in (None, "trained"):
            for row in trained_rows(subject):
                add(row | dense)
    if asked.part in (None, "language") and find_spec("transformers"):
        for row in language_rows():
            add(row)


if __name__ == "__main__":
    main()
