"""Write the vectors that hold the Python and the TypeScript estimate together: ``python -m tests.vectors.make``.

Each file holds one encoded sketch and a list of recipes with what Python estimates for them. The models are small and
seeded; the recipes cover every field, and many are random.
"""

from __future__ import annotations

import base64
import json
import math
import random
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shrinkwidget.analysis.chart_distribution import effective, original, survivors
from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate
from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.pruning_estimate import survivals
from shrinkwidget.analysis.sketch import Sketch, narrowed_to, sketch
from shrinkwidget.compression.find_and_prune_channels import narrower
from shrinkwidget.evaluation.sketch_and_calibration_data import sketch as sketch_with_channels
from shrinkwidget.figures.distribution_geometry import distribution_plot, shared_span
from shrinkwidget.figures.numbers_and_recipes_as_text import recipe_label
from shrinkwidget.methods import Uniform
from shrinkwidget.planning.bit_allocation import allocate
from shrinkwidget.recipe_and_method_registry import BITS, Keep, Recipe, layer_matches, schema
from tests.vectors.chart_cases import charts

FOLDER = Path(__file__).parent
STRUCTURES = ("unstructured", "2:4", "1:4", "4:8")
RANDOM_RECIPES = 40
BINS = 21  # of a picture's axis
PIXELS = 180  # of a drawn row


def models() -> dict[str, nn.Module]:
    """Return the seeded models: a small conv net, a bfloat16 one, and one with odd layers."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 10))
    half = nn.Sequential(nn.Linear(70, 33), nn.Linear(33, 5)).to(torch.bfloat16)
    embedding, dead, large = nn.Embedding(11, 5), nn.Linear(5, 130, bias=False), nn.Linear(130, 1)
    odd = nn.Sequential(embedding, dead, large, nn.Conv1d(2, 3, 1), nn.ConvTranspose1d(6, 10, 3, groups=2))
    with torch.no_grad():
        dead.weight[:40] = 0
        large.weight.mul_(100)
    torch.manual_seed(1)
    sparse = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20), nn.Embedding(12, 20))
    with torch.no_grad():  # as others leave them: zeros of either sign, a few, a quarter, most
        for name, share in {"0.weight": 0.9, "1.weight": 0.25, "2.weight": 0.01}.items():
            weight = sparse.get_parameter(name)
            weight.mul_(torch.rand_like(weight) >= share)
    return {"conv": conv, "bfloat16": half, "odd": odd, "sparse": sparse}


class Branching(nn.Module):
    """A network with families of every kind: residual, depthwise, transposed with groups, behind a map, heads; tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.up = nn.ConvTranspose2d(12, 24, 2, stride=2)
        self.add_module("größe", nn.Conv2d(24, 12, 1, stride=2))
        self.flat = nn.Linear(12 * 16, 16)
        self.qkv = nn.ModuleList(nn.Linear(12, 20, bias=False) for _ in range(3))
        self.project = nn.Linear(20, 16)
        self.out = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten numbers for each image of 4×4 pixels."""
        x = self.norm(self.stem(x)).relu()
        x = x + self.get_submodule("größe")(self.up(self.depthwise(x)).relu())
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (part(tokens).unflatten(2, (-1, 4)).transpose(1, 2) for part in self.qkv)
        seen = (q @ k.transpose(2, 3)).softmax(3) @ v
        logits: torch.Tensor = self.out(self.flat(x.flatten(1)) + self.project(seen.transpose(1, 2).flatten(2)).mean(1))
        return logits


def branching() -> tuple[nn.Module, Sketch]:
    """Return a seeded model with families of channels, and its sketch."""
    torch.manual_seed(2)
    model = Branching().eval()
    with torch.no_grad():
        model.flat.weight.mul_(torch.rand_like(model.flat.weight) >= 0.3)
        for number, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + number % 3)
    return model, sketch_with_channels(model, example=torch.zeros(1, 3, 4, 4))


def channel_recipes() -> list[Recipe]:
    """Return recipes that remove channels, alone and beside everything else."""
    recipes = [Recipe(channels=c) for c in (0.1, 0.5, 0.75, 0.999)]
    recipes += [Recipe(channels=c, multiple=m) for c in (0.3, 0.5) for m in (4, 5, 8, 32)]
    recipes += [Recipe(channels=c, channel_scope="global", multiple=m) for c in (0.25, 0.6, 0.9) for m in (1, 4)]
    recipes += [
        Recipe(channels=0.5, layers={"stem": Keep}),
        Recipe(channels=0.5, layers={"stem": dict(channels=0.25), "größe": dict(channels=0.75, multiple=3)}),
        Recipe(channels=0.5, channel_scope="global", layers={"depthwise": dict(channels=0.125)}),
        Recipe(multiple=8, layers={"up": dict(channels=0.3)}),
        Recipe(channels=0.5, bits=4, sparsity=0.5, granularity=32),
        Recipe(channels=0.25, bits=3, sparsity=0.3, quantizer="kmeans", scope="layer"),
        Recipe(channels=0.5, bits=1, sparsity=0.4),
        Recipe(channels=0.3, bits=16, sparsity=0.6, uncompressed_bits=16),
        Recipe(channels=0.5, bits=4, structure="2:4"),
        Recipe(channels=0.5, bits=4, importance="random", sparsity=0.5),
        Recipe(channels=0.5, bits=4, importance="batchnorm_scale", sparsity=0.5),
        Recipe(channels=0.5, bits=8, clipping=99.0),
    ]
    return recipes


def channel_vector() -> dict[str, Any]:
    """Return the content of the file about channels; bytes, widths and parameters are those of the narrower model."""
    model, looked = branching()
    rng = random.Random(7)
    labels = [layer.label for layer in looked.layers]
    recipes = channel_recipes()
    for _ in range(RANDOM_RECIPES // 2):
        recipe = random_recipe(rng, labels)
        layers = {
            name: own if own is Keep or rng.random() < 0.5 else {**own, "channels": round(rng.random() * 0.99, 2)}  # type: ignore[dict-item]
            for name, own in recipe.layers.items()
        }
        scope = "global" if rng.random() < 0.3 and recipe.importance.ranks_channels_by_norm else "width"
        more: dict[str, Any] = dict(channels=round(rng.random() * 0.99, 3), multiple=rng.choice([1, 1, 2, 8]))
        recipes.append(recipe.with_(**more, channel_scope=scope, layers=layers))
    pictured = [
        Recipe(channels=0.5, sparsity=0.4, bits=4),
        Recipe(channels=0.5, bits=3, granularity="tensor"),
        Recipe(channels=0.3, sparsity=0.5, bits=4, importance="random", scope="layer"),
    ]
    cases = []
    for recipe in recipes:
        found = _case(estimate(looked, recipe), labels)
        assert looked.channels is not None
        left = narrower(model, recipe, torch.zeros(1, 3, 4, 4)).model if recipe.removes_channels else model
        cases.append(found | {"parameters": sum(p.numel() for p in left.parameters())})
    return {
        "sketch": base64.b64encode(looked.encode()).decode(),
        "cases": cases,
        "pictures": [picture for recipe in pictured for picture in _pictures(looked, recipe)],
        "rows": [row for recipe in pictured for row in drawn_rows(looked, recipe)],
    }


def without_channels(looked: Sketch, recipe: Recipe) -> Sketch:
    """Return the sketch of what a recipe leaves of a model's channels."""
    widths = estimate(looked, recipe).widths
    return narrowed_to(looked, [now for _, now in widths.values()]) if widths else looked


def written_recipes() -> list[Recipe]:
    """Return one recipe for every choice a field has."""
    recipes = [
        Recipe(),
        Recipe(sparsity=0.9),
        Recipe(sparsity=0.5, scope="layer"),
        Recipe(uncompressed_bits=16, sparsity=1 / 3),
    ]
    for bits in BITS:
        recipes += [
            Recipe(bits=bits),
            Recipe(bits=bits, sparsity=0.7, granularity="tensor"),
            Recipe(bits=bits, granularity=32),
        ]
        recipes += [
            Recipe(bits=bits, sparsity=0.4, symmetric=True),
            Recipe(bits=bits, sparsity=0.6, quantizer="kmeans"),
        ]
        recipes += [
            Recipe(bits=bits, sparsity=0.2, clipping="absmax"),
            Recipe(bits=bits, symmetric=True, clipping="absmax"),
        ]
    recipes += [Recipe(bits=4, structure=p, granularity=g) for p in STRUCTURES[1:] for g in ("tensor", "channel", 64)]
    recipes += [
        Recipe(bits=b, scales=s, symmetric=b == 8, granularity=g)
        for b, s in ((2, "float16"), (4, "bfloat16"), (6, "float16"), (8, "bfloat16"))
        for g in ("tensor", "channel", 32)
    ]
    recipes += [Recipe(bits=3, sparsity=0.3, clipping=r) for r in ("absmax", "mse", 90.0, 99.9)]
    recipes += [Recipe(sparsity=0.5, bits=4, importance="random", seed=3, scope=s) for s in ("global", "layer")]
    recipes.append(
        Recipe(sparsity=0.8, bits=5, layers={"0": Keep, "*": dict(bits=8), "?": dict(sparsity=0.25, granularity=48)})
    )
    return recipes


def random_recipe(rng: random.Random, labels: list[str]) -> Recipe:
    """Return a valid recipe with random fields and up to three overrides."""
    layers: dict[str, Any] = {}
    for label in rng.sample(labels, rng.randint(0, min(3, len(labels)))):
        layers[label] = Keep if rng.random() < 0.3 else _random_fields(rng, 0.4)
    whole = dict(scope=rng.choice(["global", "layer"]), importance=rng.choice(["magnitude"] * 3 + ["random"]))
    return Recipe(**_random_fields(rng, 0.8), **whole, uncompressed_bits=rng.choice([16, 32]), layers=layers)  # type: ignore[arg-type]


def _random_fields(rng: random.Random, share: float) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "bits": rng.choice(BITS),
        "granularity": rng.choice(["tensor", "channel", 32, 64, 128, 7, 500]),
        "quantizer": rng.choice(["uniform", "uniform", "kmeans"]),
        "symmetric": rng.random() < 0.7,
        "clipping": rng.choice(["auto", "absmax", "mse", 99.0, 75.5]),
    }
    chosen = {name: value for name, value in fields.items() if rng.random() < share}
    settings = {name: chosen.pop(name) for name in ("symmetric", "clipping") if name in chosen}
    if settings and chosen.get("quantizer") != "kmeans":
        chosen["quantizer"] = Uniform(**settings)
    structure = rng.choice(STRUCTURES) if rng.random() < 0.3 else "unstructured"
    free = structure == "unstructured"
    return {**chosen, **({"sparsity": round(rng.random() * 0.99, 3)} if free else {"structure": structure})}


def vector(looked: Sketch, seed: int) -> dict[str, Any]:
    """Return one file's content: the sketch and what Python makes of every recipe."""
    rng = random.Random(seed)
    labels = [layer.label for layer in looked.layers]
    recipes = [r for r in written_recipes() if _fits(r, labels)]
    recipes += [random_recipe(rng, labels) for _ in range(RANDOM_RECIPES)]
    return {
        "sketch": base64.b64encode(looked.encode()).decode(),
        "cases": [_case(estimate(looked, recipe), labels) for recipe in recipes],
        "pictures": [picture for recipe in pictured_recipes() for picture in _pictures(looked, recipe)],
        "rows": [row for recipe in pictured_recipes()[::2] for row in drawn_rows(looked, recipe)],
    }


def pictured_recipes() -> list[Recipe]:
    """Return one recipe for every way in which a distribution is found."""
    ways: list[dict[str, Any]] = [
        dict(sparsity=0.6),
        dict(sparsity=0.5, bits=4),
        dict(sparsity=0.5, bits=3, granularity="tensor"),
        dict(sparsity=0.2, bits=8, granularity=32, clipping="mse"),
        dict(sparsity=0.3, bits=4, symmetric=True, scope="layer"),
        dict(sparsity=0.4, bits=1),
        dict(sparsity=0.4, bits=3, quantizer="kmeans"),
        dict(structure="2:4", bits=4, granularity="tensor"),
        dict(structure="1:4", bits=4, clipping=99.0),
        dict(sparsity=0.4, bits=4, importance="random", scope="layer"),
        dict(structure="4:8", bits=3, importance="random", granularity="tensor"),
        dict(sparsity=0.04, bits=4, granularity=32),
    ]
    return [Recipe(**way) for way in ways]


def _pictures(looked: Sketch, recipe: Recipe) -> list[dict[str, Any]]:
    """Return what is drawn of every layer, on an axis a little shorter than its weights reach."""
    plans = recipe.resolve(layer.name for layer in looked.layers)
    now = without_channels(looked, recipe).layers
    fates = survivals(now, plans, recipe)
    figured = estimate(looked, recipe).layers
    pictures = []
    for layer, left, plan, fate, figures in zip(looked.layers, now, plans, fates, figured, strict=True):
        span = 0.9371 * layer.absmax or 1.0
        edges = np.array([span * (2 * i / BINS - 1) for i in range(BINS + 1)])
        picture: dict[str, Any] = {"recipe": recipe.to_json(), "layer": layer.name, "span": span}
        picture["original"] = original(layer, edges).tolist()
        picture["survivors"] = survivors(left, fate, figures.kept, edges).tolist()
        picture["effective"] = effective(left, plan, fate, figures.kept, edges).tolist()
        pictures.append(picture)
    return pictures


def drawn_rows(looked: Sketch, recipe: Recipe) -> list[dict[str, Any]]:
    """Return each layer's row of a ridge: its picture on the axis that all layers share."""
    plans = recipe.resolve(layer.name for layer in looked.layers)
    now = without_channels(looked, recipe).layers
    fates = survivals(now, plans, recipe)
    span = shared_span(looked.layers)
    figured = estimate(looked, recipe).layers
    rows = []
    for layer, left, plan, fate, figures in zip(looked.layers, now, plans, fates, figured, strict=True):
        drawn = distribution_plot(layer, plan, fate, figures, span, PIXELS, left)
        row: dict[str, Any] = {"recipe": recipe.to_json(), "layer": layer.name, "span": span, "pixels": PIXELS}
        row |= {"bins": len(drawn.outline), "top": drawn.top, "threshold": drawn.threshold, "width": drawn.bars.width}
        row |= {"at": _short(drawn.bars.at), "height": _short(drawn.bars.height), "levels": _short(drawn.levels)}
        rows.append(row)
    return rows


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.10g}") for value in values]


def _fits(recipe: Recipe, labels: list[str]) -> bool:
    return "0" in labels or not recipe.layers


def _case(estimated: Estimate, labels: list[str]) -> dict[str, Any]:
    recipe = estimated.recipe
    return {
        "recipe": recipe.to_json(),
        "code": repr(recipe),
        "label": recipe_label(recipe),
        "plans": [plan.to_dict() for plan in recipe.resolve(labels)],
        "estimate": estimated.to_dict(),
        "nbytes": estimated.nbytes,
        "sqnr": estimated.sqnr if estimated.sqnr != float("inf") else None,
    }


def deflated() -> dict[str, str]:
    """Return texts as zlib folds them at level 9, in base64: like a file's structure, and what is hard to fold."""
    rng = random.Random(0)
    parts = ("layer", "conv1", "attention", "mlp", "weight", "bias", "running_mean")

    def structure(tensors: int) -> str:
        named = [(".".join(f"{rng.choice(parts)}{rng.randrange(20)}" for _ in range(3))) for _ in range(tensors)]
        shapes = [[rng.randrange(1, 2048) for _ in range(rng.choice((1, 2, 4)))] for _ in named]
        items = [[name, shape, "float32", 1] for name, shape in zip(named, shapes, strict=True)]
        return json.dumps(items, separators=(",", ":"))

    def skewed(length: int, ratio: float) -> str:
        """Return letters of which each next one is rarer by so much."""
        return "".join(chr(40 + min(80, int(math.log(1 - rng.random(), ratio)))) for _ in range(length))

    texts = {
        "nothing": "",
        "one byte": "a",
        "three bytes": "aaa",
        "one tensor": structure(1),
        "300 tensors": structure(300),
        "1,500 tensors, beyond the window": structure(1500),
        "a long run": "a" * 70_000,
        "noise in several blocks": skewed(24_000, 0.96),
        "letters with codes longer than allowed": skewed(30_000, 0.45),
    }
    return {name: base64.b64encode(zlib.compress(text.encode(), 9)).decode() for name, text in texts.items()}


def overrides() -> list[dict[str, Any]]:
    """Return which of many overrides decides each layer, as its bits; null in place of them for what is refused."""
    rng = random.Random(0)
    parts = ["a", "b", "A", "0", "[0]", "😀", ".", "weight", ".weight", "a]"]
    wild = [*parts, "*", "?", "[ab]", "[!a]", "[", "[a-c", "]", "[]a]", "**", "*.weight"]
    cases = []
    for _ in range(300):
        names = list(dict.fromkeys("".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(8)))
        keys = ["".join(rng.choices(wild, k=rng.randint(1, 3))) for _ in range(3)] + rng.sample(names, 2 % len(names))
        rng.shuffle(keys)
        layers = {key: {"bits": 1 + i} for i, key in enumerate(dict.fromkeys(keys))}
        for chosen in ({key: own for key, own in layers.items() if _names_one(key, names)}, layers):
            recipe = Recipe(layers=chosen)
            bits = [plan.bits for plan in recipe.resolve(names)] if all(_names_one(k, names) for k in chosen) else None
            cases.append({"recipe": recipe.to_json(), "names": names, "bits": bits})
    return cases


def frontiers(looked: Sketch) -> list[dict[str, Any]]:
    """Return frontiers as the page gets them, with the recipes for some budgets and the exact bytes of each."""
    found = []
    recipes = (
        Recipe(),
        Recipe(quantizer="kmeans", layers={"0": Keep, "2": {"bits": 8}}),
        Recipe(structure="2:4", quantizer=Uniform(symmetric=True), uncompressed_bits=16),
    )
    for recipe in recipes:
        steps = allocate(looked, recipe)
        least, most = int(steps.nbytes.min()), int(steps.nbytes.max())
        budgets = sorted({least - 1, least, most, most + 1, *range(least, most, max(1, (most - least) // 12))})
        cases = [{"budget": b, "recipe": None, "nbytes": None} for b in budgets]
        for case in cases:
            at = steps.within(case["budget"] or 0)
            if at is not None:
                case |= {"recipe": steps.recipe(at).to_json(), "nbytes": estimate(looked, steps.recipe(at)).nbytes}
        found.append({"frontier": steps.to_dict(), "cases": cases})
    return found


def _names_one(key: str, names: list[str]) -> bool:
    return any(layer_matches(key, name) for name in names)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    (folder / "overrides").mkdir(exist_ok=True)
    (folder / "overrides" / "cases.json").write_text(json.dumps(overrides(), ensure_ascii=False) + "\n")
    (folder / "deflated").mkdir(exist_ok=True)
    (folder / "deflated" / "texts.json").write_text(json.dumps(deflated(), indent=1) + "\n")
    (folder / "charts").mkdir(exist_ok=True)
    (folder / "charts" / "cases.json").write_text(json.dumps(charts(), ensure_ascii=False) + "\n")
    (folder / "frontiers").mkdir(exist_ok=True)
    (folder / "frontiers" / "cases.json").write_text(json.dumps(frontiers(sketch(models()["conv"]))) + "\n")
    (folder / "kinds").mkdir(exist_ok=True)
    (folder / "kinds" / "schema.json").write_text(json.dumps(schema(), ensure_ascii=False) + "\n")
    for number, (name, model) in enumerate(models().items()):
        text = json.dumps(vector(sketch(model), number), ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n")
    (folder / "channels.json").write_text(json.dumps(channel_vector(), ensure_ascii=False) + "\n")
