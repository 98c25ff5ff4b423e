"""What the snapshots and the live charts share, as vectors: numbers in words, axes, ticks, places, shapes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from shrinkwidget.figures import (
    distribution_geometry,
    fit_and_place_labels,
    line_scales,
    model_silhouette,
    monitor_snapshot_png,
    numbers_and_recipes_as_text,
    scatter_scales_and_pareto_front,
    ticks_and_size_marks,
)
from shrinkwidget.performance.device_fit import DeviceFit, known_devices

FRAMES = (
    scatter_scales_and_pareto_front.Frame(400, 176, 44, 10, 16, 20),
    scatter_scales_and_pareto_front.Frame(290, 116, 50, 14, 28, 20),
)


def charts() -> dict[str, list[dict[str, Any]]]:
    """Return cases by what they are about: what goes in, and what Python makes of it."""
    rng = random.Random(6)
    return {
        "numbers": _numbers(rng),
        "scores": _scores(rng),
        "ticks": _ticks(rng),
        "histograms": _histograms(rng),
        "scatters": _scatters(rng),
        "trainings": _trainings(rng),
        "silhouettes": _silhouettes(rng),
        "labels": _labels(rng),
        "devices": _devices(rng),
    }


def _devices(rng: random.Random) -> list[dict[str, Any]]:
    """Models of every size, known and not, and those that fill a memory to the last byte."""
    cases = []
    for i in range(40):
        file, weights, activations = (round(10 ** rng.uniform(2, 11)) for _ in range(3))
        if i < len(known_devices()):
            device = known_devices()[i]
            file, weights = device.flash or file, device.ram - activations if activations < device.ram else weights
        needs = file, None if i % 7 == 3 else weights, None if i % 5 == 4 else activations
        found = DeviceFit("model", needs[0], True, needs[1], needs[2], known_devices())
        rooms = [(row.flash, row.ram, row.activations) for row in found.rows]
        cases.append(
            {
                "needs": list(needs),
                "fits": [
                    [row.fits, *(room.fits for room in three)] for row, three in zip(found.rows, rooms, strict=True)
                ],
                "over": [[room.over for room in three] for three in rooms],
                "texts": [[room.text for room in three] for three in rooms],
                "words": repr(found).splitlines()[0].removeprefix("model "),
            }
        )
    return cases


def _numbers(rng: random.Random) -> list[dict[str, Any]]:
    """Halves, ends of ranges and random numbers of every size."""
    values = [0.0, 0.5, 1.0, 0.005, 0.125, 0.995, 0.9949, 0.9951, 0.375, 0.625, 0.0004, 1e-4, 9.9e-5, 9.995, 99.95]
    values += [999.4, 999.5, 1000.0, 100_500.0, 1_125_000.0, 999_500.0, 99_950.0, 9_995.0, 99_999.0, 1e5, 1e6, 2.5e-7]
    values += [rng.choice([1, -1]) * 10 ** rng.uniform(-8, 11) for _ in range(60)] + [12.5, 0.0625, 8.25, 1e12, 1e-6]
    values += [0.001, 0.00099, 0.999, 0.9991, 0.99999]
    return [
        {
            "value": value,
            "bytes": numbers_and_recipes_as_text.bytes_text(round(abs(value))),
            "bytes_tick": numbers_and_recipes_as_text.bytes_tick_text(round(abs(value))),
            "share": numbers_and_recipes_as_text.share_text(value),
            "percent": numbers_and_recipes_as_text.percent_digit_text(value),
            "weight": numbers_and_recipes_as_text.weight_text(value),
            "decibels": numbers_and_recipes_as_text.decibels_text(value),
            "times": numbers_and_recipes_as_text.times_text(abs(value)),
            "compared": numbers_and_recipes_as_text.compared_size_text(abs(value)) if value else None,
            "typed": numbers_and_recipes_as_text.significant(value, 8),
            "estimated": numbers_and_recipes_as_text.estimated_text(
                value > 1, numbers_and_recipes_as_text.weight_text(value)
            ),
        }
        for value in values
    ]


def _scores(rng: random.Random) -> list[dict[str, Any]]:
    cases = []
    for i in range(60):
        percent, higher = i % 2 == 0, (True, False, None)[i % 3]
        scale = 1.0 if percent else 10 ** rng.uniform(-3, 5)
        value, low, high = (round(scale * rng.random(), 3 if i % 4 else 12) for _ in range(3))
        low, high = min(value, low), max(value, high)
        if not percent and i % 5 == 0:
            low = -low
        ends = (None, None) if i % 7 == 0 else (low, high)
        now = round(scale * rng.random(), 3)
        cases.append(
            {
                "metric": {"name": "m", "percent": percent, "higher": higher},
                "score": {"value": value, "low": ends[0], "high": ends[1]},
                "text": numbers_and_recipes_as_text.value_text(value, percent),
                "tick": numbers_and_recipes_as_text.tick_text(round(value, 2), percent),
                "rounded": round(value, 2),
                "interval": numbers_and_recipes_as_text.interval_text(ends[0], ends[1], percent),
                "direction": numbers_and_recipes_as_text.direction_text(percent, higher),
                "now": now,
                "predicted": numbers_and_recipes_as_text.prediction_text(
                    now, value, ends[0], ends[1], percent, i % 9 == 0
                ),
                "running": i % 9 == 0,
                "holds": numbers_and_recipes_as_text.holds_up(higher, now, ends[0 if higher else 1], value),
            }
        )
    return cases


def _ticks(rng: random.Random) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for _ in range(80):
        span, width = 10 ** rng.uniform(-4, 3), rng.uniform(60, 700)
        low = rng.choice([0.0, rng.uniform(-2, 2) * span])
        high, wanted = low + span * rng.uniform(0.05, 3), rng.randint(1, 8)
        small = 10 ** rng.uniform(-1, 6)
        large = small * 10 ** rng.uniform(0.2, 5)
        dense = 10 ** rng.uniform(2, 12)
        cases.append(
            {
                "span": span,
                "width": width,
                "low": low,
                "high": high,
                "wanted": wanted,
                "small": small,
                "large": large,
                "dense": dense,
                "mirrored": ticks_and_size_marks.mirrored_ticks(span, wanted),
                "axis": ticks_and_size_marks.axis_ticks(span, width),
                "linear": ticks_and_size_marks.linear_ticks(low, high, wanted),
                "whole": ticks_and_size_marks.whole_ticks(0, round(large), wanted),
                "log": ticks_and_size_marks.log_ticks(small, large, wanted),
                "below": ticks_and_size_marks.nice_below(span),
                "marks": [[size, label] for size, label in ticks_and_size_marks.size_marks(dense)],
            }
        )
    return cases


def _histograms(rng: random.Random) -> list[dict[str, Any]]:
    cases = []
    for i in range(40):
        n, sigma = round(10 ** rng.uniform(0, 7)), 0.0 if i == 0 else 10 ** rng.uniform(-3, 0)
        span, pixels = sigma * rng.uniform(1, 8) or 1.0, rng.uniform(40, 900)
        counts = [float(rng.choice([0, rng.randint(0, 50)])) for _ in range(rng.randint(5, 30))]
        bars = [rng.choice([0.0, 3.0]) * count for count in counts]
        cases.append(
            {
                "n": n,
                "sigma": sigma,
                "span": span,
                "pixels": pixels,
                "bins": distribution_geometry.bin_count(n, sigma, span, pixels),
                "counts": counts,
                "top": distribution_geometry.body_height(np.array(counts)),
                "bars": bars,
                "comb": distribution_geometry.comb_factor(np.array(bars), np.array(counts)),
            }
        )
    return cases


def _scatters(rng: random.Random) -> list[dict[str, Any]]:
    cases = []
    for i in range(40):
        dense, is_share = round(10 ** rng.uniform(3, 9)), i % 2 == 0
        values = [round(rng.uniform(0.2, 1) if is_share else rng.uniform(-5, 50), 3) for _ in range(i % 9)]
        trials = [(round(dense * rng.choice([1.2, rng.random(), 10 ** rng.uniform(-3, 0)])) + 1, v) for v in values]
        baseline = rng.choice([None, 0.98 if is_share else 3.0])
        xs = scatter_scales_and_pareto_front.byte_domain([nbytes for nbytes, _ in trials], dense)
        ys = scatter_scales_and_pareto_front.value_domain(values, baseline, is_share)
        frame = FRAMES[i % 2]
        scales = scatter_scales_and_pareto_front.Scales(frame, xs, ys)
        cases.append(
            {
                "frame": _plain(frame),
                "dense": dense,
                "trials": [{"nbytes": nbytes, "value": value} for nbytes, value in trials],
                "baseline": baseline,
                "share": is_share,
                "xs": xs,
                "ys": ys,
                "places": [[scales.x(nbytes), scales.y(value)] for nbytes, value in trials],
                "x_ticks": scales.x_ticks,
                "y_ticks": scales.y_ticks,
                "front_higher": [trials[j] for j in scatter_scales_and_pareto_front.pareto_front(trials, True)],
                "front_lower": [trials[j] for j in scatter_scales_and_pareto_front.pareto_front(trials, False)],
            }
        )
    return cases


def _plain(frame: scatter_scales_and_pareto_front.Frame) -> dict[str, float]:
    return {name: getattr(frame, name) for name in ("width", "height", "left", "right", "top", "bottom")}


def _trainings(rng: random.Random) -> list[dict[str, Any]]:
    cases = []
    for i in range(40):
        is_share, rounds, epochs, n = i % 3 > 0, rng.randint(1, 4), rng.randint(1, 12), rng.choice([0, 20, 360, 10_000])
        size = rng.randint(0, rounds * epochs)
        values = [rng.uniform(0.3, 1) if is_share else rng.uniform(-3, 9) for _ in range(size)]
        low = [v - 0.01 if rng.random() < 0.8 else None for v in values]
        high = [None if below is None else v + 0.005 for v, below in zip(values, low, strict=True)]
        curves: dict[str, list[Any]] = {"at": list(range(1, size + 1)), "test": list(values), "low": low, "high": high}
        curves["train"] = [rng.choice([None, value + 0.01]) for value in values]
        curves["loss"] = [rng.choice([None, 10 ** rng.uniform(-4, 1)]) for _ in values]
        curves["lr"] = [10 ** rng.uniform(-5, 0) for _ in values]
        curves["sparsity"] = [0.5 for _ in values]
        now = {
            "phase": rng.choice(["prune", "train", "test", "checkpoint"]),
            "round": min(rounds, size // epochs + 1),
            "rounds": rounds,
            "epoch": rng.choice([0, size % epochs + 1]),
            "epochs": epochs,
            "step": 3,
            "steps": rng.choice([None, 7]),
            "loss": rng.choice([None, 0.4]),
            "train": 0.5,
            "lr": 0.01,
            "sparsity": 0.6,
        }
        if i % 4 == 3:  # stages of a transfer, each of its own length
            now["epochs_by_round"] = [epochs + 2 * j for j in range(rounds)]
        baseline = rng.choice([None, {"value": 0.95, "low": 0.93, "high": 0.97, "n": 360}])
        shown = monitor_snapshot_png.shown_curves({"curves": curves, "baseline": baseline, "progress": now})
        scored = [
            *zip(shown["test"], shown["low"], shown["high"], strict=True),
            *((v, None, None) for v in shown["train"]),
        ]
        scores = [(value, a, b) for value, a, b in scored if value is not None]
        domains = [
            line_scales.score_domain(scores, n, is_share),
            line_scales.loss_domain(shown["loss"]),
            line_scales.rate_domain(shown["lr"]),
        ]
        frame, xs = FRAMES[i % 2], (0.0, float(monitor_snapshot_png.round_ends(now)[-1]))
        scales = [line_scales.LineScales(frame, xs, domain, log=j == 2) for j, domain in enumerate(domains)]
        cases.append(
            {
                "frame": _plain(frame),
                "curves": curves,
                "progress": now,
                "epochs": xs[1],
                "baseline": baseline,
                "n": n,
                "share": is_share,
                "done": monitor_snapshot_png.epochs_done(now),
                "shown": shown,
                "domains": domains,
                "x_ticks": scales[0].x_ticks,
                "y_ticks": [one.y_ticks for one in scales],
                "places": [
                    [scales[0].x(x), scales[0].y(v)]
                    for x, v in zip(shown["at"], shown["test"], strict=True)
                    if v is not None
                ],
                "rates": [scales[2].y(v) for v in shown["lr"] if v is not None],
            }
        )
    return cases


def _silhouettes(rng: random.Random) -> list[dict[str, Any]]:
    names = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.down.0", "fc"]
    names += ["blocks.3.attn.qkv", "blocks.12.mlp.fc1", "0", "1", "12", "head.weight", "model.layers.11.q", "a.b.c"]
    cases = []
    for _ in range(20):
        size, width = rng.randint(1, 15), rng.uniform(80, 600)
        chosen = sorted(rng.sample(range(len(names)), size))
        widths = [rng.choice([1, 16, 64, 512, 50_000]) for _ in chosen]
        nbytes = [4 * wide * rng.randint(1, 999) for wide in widths]
        edges, tall = model_silhouette.blocks(np.array(widths, dtype=float), np.array(nbytes, dtype=float))
        labelled = [names[i] for i in chosen]
        cases.append(
            {
                "labels": labelled,
                "layers": [{"width": w, "bytes": b} for w, b in zip(widths, nbytes, strict=True)],
                "width": width,
                "edges": (edges * width).tolist(),
                "heights": tall.tolist(),
                "stages": [[text, at] for text, at in model_silhouette.stages(labelled, edges * width)],
                "blocks": [model_silhouette.block_of(label) for label in labelled],
                "dead": numbers_and_recipes_as_text.dead_text(labelled[: size // 2]),
            }
        )
    return cases


def _labels(rng: random.Random) -> list[dict[str, Any]]:
    cases = []
    for _ in range(60):
        text = "".join(rng.choices("abcdef.0123", k=rng.randint(2, 40)))
        room = rng.randint(1, 40)
        points = [(rng.uniform(0, 300), rng.uniform(0, 150)) for _ in range(rng.randint(1, 9))]
        size, levels = (rng.uniform(20, 200), 15.0), [rng.uniform(0, 150)]
        box = fit_and_place_labels.place_label(
            points[0], size, fit_and_place_labels.Box(0, 0, 300, 150), points, levels, 10
        )
        row = sorted((rng.uniform(0, 300), rng.uniform(5, 60)) for _ in range(8))
        cases.append(
            {
                "text": text,
                "room": room,
                "fitted": fit_and_place_labels.fit_text(text, room, len),
                "points": points,
                "size": size,
                "levels": levels,
                "box": None if box is None else list(box),
                "row": row,
                "thin": fit_and_place_labels.thin(row),
            }
        )
    return cases
