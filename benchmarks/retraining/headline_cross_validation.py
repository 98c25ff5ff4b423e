"""The smallest file of the demo network without loss of accuracy, by cross-validation.

The 1,510 images of the demo's training and test splits are held out in turn; its 287 validation images, on which the
settings were chosen, are trained on and never counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.demo.digit_net import DigitNet
from shrinkwidget.demo.write_weights import augmented

from .resumable_tasks_and_results import Cell, Task, mean_and_sd

Pair = tuple[Tensor, Tensor]

FOLDS: Final = 5
DENSE_EPOCHS: Final = 60
RATES: Final = {"lr": 0.1, "quantized lr": 0.02, "batch": 64}
LEARNING: Final[dict[str, Any]] = {**RATES, "weight decay": 5e-4, "distillation": [4.0, 0.9], "mixed": 0.0}
"""Learning rates before the grid and through it, the batch size, weight decay, the teacher's temperature and weight,
and which share of the batches shows two digits at once."""
FROM_THE_TEACHER: Final[dict[str, Any]] = {"quantized lr": 0.003, "distillation": [2.0, 1.0], "mixed": 0.5}
NONE: Final = [0, 0, 0]
NARROW: Final = "75 % of channels, 5 bits"
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    NARROW: {**FROM_THE_TEACHER, "channels": [0.75, 1, 240], "sparsity": NONE, "bits": [5, 40]},
    "75 % of channels, 4 bits": {**FROM_THE_TEACHER, "channels": [0.75, 1, 240], "sparsity": NONE, "bits": [4, 60]},
    # what the same epochs, learning rates and teacher make of the dense network
    "dense, trained as long": {**FROM_THE_TEACHER, "channels": [0, 1, 240], "sparsity": NONE, "bits": [32, 40]},
    # measured before: less training, labels beside the teacher
    "50 % of channels, 85 % sparse": {"channels": [0.5, 2, 15], "sparsity": [0.85, 4, 20], "bits": [4, 60]},
    "50 % of channels, 90 % sparse": {"channels": [0.5, 2, 12], "sparsity": [0.9, 4, 15], "bits": [4, 40]},
    "75 % of channels": {"channels": [0.75, 3, 15], "sparsity": NONE, "bits": [4, 30]},
}
"""How much goes, in how many rounds of how many epochs; and bits, trained through for so many epochs. The first two,
of few multiply-accumulates and of few bytes, were chosen by `settings_search`, on networks that never saw the
validation images they were judged by; the first was measured once, and the second has not been."""
QUICK: Final = {"channels": [0.5, 1, 1], "sparsity": [0.5, 1, 1], "bits": [4, 1]}


def settings(quick: bool) -> dict[str, Any]:
    return {
        "folds": FOLDS,
        "dense": {"epochs": 1 if quick else DENSE_EPOCHS, "recipe": "that of shrinkwidget.demo.write_weights"},
        "compressed": {name: {**LEARNING, **found, **(QUICK if quick else {})} for name, found in SETTINGS.items()},
    }


def tasks(asked: Mapping[str, Any], seeds: int, quick: bool, methods: Sequence[str] = ()) -> Iterator[Task]:
    """Yield a task for every fold of every seed; each trains a dense network and compresses it in some ways, or all."""
    names = tuple(methods or asked["compressed"])
    for seed in range(seeds):
        for fold in range(1 if quick else FOLDS):
            keys = tuple({"method": name, "seed": seed, "fold": fold} for name in names)
            yield Task(cells, (dict(asked), seed, fold, names), keys)


def cells(asked: Mapping[str, Any], seed: int, fold: int, methods: Sequence[str]) -> list[Cell]:
    """Return what became of one fold: which images either network gets wrong, the bytes and the seconds."""
    train, test, places = split(seed, fold)
    start = time.perf_counter()
    network = dense(train, asked["dense"]["epochs"], seed)
    dense_seconds = time.perf_counter() - start
    known = {
        "dense wrong": wrong(network, test, places),
        "dense bytes": sw.compress(network, sw.Recipe()).original_nbytes,
        "dense seconds": round(dense_seconds, 1),
    }
    found = []
    for name, how in ((name, asked["compressed"][name]) for name in methods):
        start, cpu = time.perf_counter(), time.process_time()
        pruned = without_channels_and_weights(network, train, how, seed)
        small = through_the_grid(pruned, network, train, how, seed)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert small.model is not None
        found.append(
            {
                "method": name,
                "seed": seed,
                "fold": fold,
                "images": len(places),
                "wrong": wrong(small.model, test, places),
                "bytes": small.nbytes_entropy_coded,
                "plain bytes": small.nbytes,
                "seconds": round(seconds, 1),
                "cpu seconds": round(cpu, 1),
                **known,
            }
        )
    return found


def split(seed: int, fold: int) -> tuple[Pair, Pair, Tensor]:
    """Return what is trained on, the held-out part of 1,510 images, and which of them are held out."""
    images, labels = (torch.cat(parts) for parts in zip(demo.data("train"), demo.data("test"), strict=True))
    always = demo.data("valid")
    order = torch.from_numpy(np.random.default_rng([seed, FOLDS]).permutation(len(labels)))
    out = torch.arange(len(labels)) % FOLDS == fold
    train = torch.cat([images[order[~out]], always[0]]), torch.cat([labels[order[~out]], always[1]])
    return train, (images[order[out]], labels[order[out]]), order[out]


def dense(train: Pair, epochs: int, seed: int, batch: int = 64) -> DigitNet:
    """Return a network trained on these images as `shrinkwidget.demo.write_weights` trains it on its own."""
    torch.manual_seed(seed)
    network, (images, labels) = DigitNet(), train
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(images) // batch)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images))[: len(images) // batch * batch]
        for chosen in order.view(-1, batch).unbind():
            loss = F.cross_entropy(network(augmented(images[chosen])), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            rate.step()
    return network.eval()


def without_channels_and_weights(network: nn.Module, train: Pair, how: Mapping[str, Any], seed: int) -> nn.Module:
    """Return a dense network after its channels, and then its weights, have gone round by round.

    Learning rates are rewound in every round; the dense network is the teacher throughout. Where nothing is to go, the
    rounds train the network as it is.
    """
    small, options = network, training_options(network, how, seed)
    for what in ("channels", "sparsity"):
        amount, rounds, epochs = how[what]
        if not rounds:
            continue
        method = _rewinding(epochs, how["lr"], how)
        if amount:
            recipe = sw.Recipe(**{what: amount})
            small = _module(sw.prune_and_retrain(small, train, None, recipe, method, rounds=rounds, options=options))
        else:
            for _ in range(rounds):
                small = _module(sw.retrain(small, train, method=method, options=options))
    return small


def through_the_grid(
    small: nn.Module, teacher: nn.Module, train: Pair, how: Mapping[str, Any], seed: int
) -> sw.CompressedModel:
    """Return a network trained through its grid, batch norms folded before; at 32 bits it is trained as it is."""
    bits, epochs = how["bits"]
    method, options = _rewinding(epochs, how["quantized lr"], how), training_options(teacher, how, seed)
    if bits == 32:
        return sw.retrain(small, train, method=method, options=options)
    recipe = sw.Recipe(how["sparsity"][0], bits, granularity="tensor", uncompressed_bits=16)
    return sw.retrain(sw.compress(sw.fold_batchnorm(small), recipe), train, method=method, options=options)


def training_options(teacher: nn.Module, how: Mapping[str, Any], seed: int) -> sw.methods.TrainingOptions:
    temperature, weight = how["distillation"]
    return sw.methods.TrainingOptions(
        augment=partial(augmented_and_mixed, share=how["mixed"]) if how["mixed"] else augmented,
        distillation=sw.methods.Distillation(teacher, temperature, weight),
        batch_size=how["batch"],
        seed=seed,
    )


def augmented_and_mixed(images: Tensor, share: float) -> Tensor:
    """Return images augmented; a share of the batches in pairs laid over each other (mixup, arXiv 1710.09412).

    What two digits at once are only the teacher can say: with weight 1, labels are not read. A small network learns
    the function of its teacher better between the images, too (arXiv 2106.05237).
    """
    images = augmented(images)
    if torch.rand(()) >= share:
        return images
    opacity = torch.rand(len(images), 1, 1, 1)
    return opacity * images + (1 - opacity) * images[torch.randperm(len(images))]


def _rewinding(epochs: int, lr: float, how: Mapping[str, Any]) -> sw.methods.LearningRateRewinding:
    schedule = sw.methods.Schedule(epochs, lr, decay="cosine", weight_decay=how["weight decay"])
    return sw.methods.LearningRateRewinding(schedule)


def _module(small: sw.CompressedModel) -> nn.Module:
    assert small.model is not None
    return small.model


def wrong(network: nn.Module, test: Pair, places: Tensor) -> list[int]:
    """Return the numbers of the images that are not recognized."""
    network.eval()
    with torch.inference_mode():
        missed = network(test[0]).argmax(1) != test[1]
    return sorted(places[missed].tolist())


def summary(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return for every method the figures over all folds of the seeds that are complete."""
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in found):
        mine = [cell for cell in found if cell["method"] == method]
        counts = {seed: sum(cell["seed"] == seed for cell in mine) for seed in {cell["seed"] for cell in mine}}
        whole = sorted(seed for seed, count in counts.items() if count == FOLDS)
        if whole:
            rows.append({"method": method, **_over([cell for cell in mine if cell["seed"] in whole], whole)})
    return rows


def _over(mine: Sequence[Cell], seeds: Sequence[int]) -> dict[str, Any]:
    images = sum(cell["images"] for cell in mine) // len(seeds)
    errors = np.zeros((2, len(seeds), images))
    for cell in mine:
        for row, name in enumerate(("dense wrong", "wrong")):
            errors[row, seeds.index(cell["seed"]), cell[name]] = 1
    lost = (errors[1] - errors[0]).mean(0)  # of each image, over the seeds
    draws = np.random.default_rng(0).integers(images, size=(10_000, images))
    low, high = np.percentile(-lost[draws].mean(1), (2.5, 97.5))
    dense_of, small_of = 1 - errors.mean(2)
    ratios = [cell["dense bytes"] / cell["bytes"] for cell in mine]
    return {
        "seeds": len(seeds),
        "images": images,
        "dense": mean_and_sd(dense_of),
        "compressed": mean_and_sd(small_of),
        "difference": mean_and_sd(small_of - dense_of),
        "difference, 95 % over images": [round(float(low), 5), round(float(high), 5)],
        "only dense right": int(((errors[0] == 0) & (errors[1] == 1)).sum()),
        "only compressed right": int(((errors[0] == 1) & (errors[1] == 0)).sum()),
        "bytes": mean_and_sd([cell["bytes"] for cell in mine], 0),
        "dense bytes": mine[0]["dense bytes"],
        "ratio": {**mean_and_sd(ratios, 1), "least": round(min(ratios), 1)},
        "seconds": {
            "median": float(np.median([cell["seconds"] for cell in mine])),
            "most": max(cell["seconds"] for cell in mine),
            "median of cpu": float(np.median([cell["cpu seconds"] for cell in mine])),
        },
    }
