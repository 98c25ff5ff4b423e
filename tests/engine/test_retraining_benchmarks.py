"""The benchmarks of retraining run at their smallest setting, and go on where they were interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shrinkwidget as sw
from benchmarks.retraining import (
    headline_cross_validation,
    narrow_race_in_onnxruntime,
    overhead,
    plot_accuracy_against_compression,
    results_tables,
    settings_search,
    train_accuracy_against_compression,
)
from benchmarks.retraining.resumable_tasks_and_results import Store, Task, run
from shrinkwidget import demo
from shrinkwidget.demo.write_weights import train

README = Path(headline_cross_validation.__file__).parents[2].joinpath("README.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headline_cross_validation, "FOLDS", 2)


def test_the_headline_counts_every_image_once_and_resumes(tmp_path: Path) -> None:
    asked = headline_cross_validation.settings(quick=True)
    store = Store(tmp_path / "headline.json", asked)
    methods = list(asked["compressed"])[:1]
    todo = list(headline_cross_validation.tasks(asked, 1, quick=True, methods=methods))
    other = Task(
        headline_cross_validation.cells, (asked, 0, 1, methods), tuple({**key, "fold": 1} for key in todo[0].keys)
    )
    run([*todo, other], store, 1)
    row = headline_cross_validation.summary(store.cells)[0]
    assert row["images"] == 1510
    low, high = row["difference, 95 % over images"]
    assert low <= row["difference"]["mean"] <= high
    lost = row["only compressed right"] - row["only dense right"]
    assert row["difference"]["mean"] == pytest.approx(lost / 1510, abs=1e-5)
    assert "×" in results_tables.markdown("headline", [row])
    again = Store(tmp_path / "headline.json", asked)
    run([Task(_never, (), todo[0].keys)], again, 1)
    with pytest.raises(SystemExit, match="other settings"):
        Store(tmp_path / "headline.json", headline_cross_validation.settings(quick=False))


def test_the_stored_headline_is_what_its_cells_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headline_cross_validation, "FOLDS", 5)
    path = Path(headline_cross_validation.__file__).with_name("headline.json")
    store = Store(path, headline_cross_validation.settings(quick=False))  # refuses a file made with other settings
    assert headline_cross_validation.summary(store.cells) == store.summary
    assert all(f"| {_points(row)} |" in README for row in store.summary)


def _points(row: dict[str, Any]) -> str:
    low, high = row["difference, 95 % over images"]
    found = f"{100 * row['difference']['mean']:+.2f} ({100 * low:+.2f} … {100 * high:+.2f})"
    return found.replace("-", "−").replace("+0.00)", "0.00)").replace("(−0.00", "(0.00")


def test_mixed_batches_lie_between_the_images_they_are_mixed_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headline_cross_validation, "augmented", lambda images: images)
    images = torch.eye(64).view(64, 1, 8, 8)  # of one bright pixel each
    mixed = headline_cross_validation.augmented_and_mixed(images, share=1.0)
    assert torch.allclose(mixed.sum((1, 2, 3)), torch.ones(64))
    assert int((mixed > 0).sum()) > 100
    assert torch.equal(headline_cross_validation.augmented_and_mixed(images, share=0.0), images)


def test_settings_are_searched_by_images_that_are_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, seen, dense = settings_search.settings(quick=True), [], headline_cross_validation.dense

    def watched(train: headline_cross_validation.Pair, epochs: int, seed: int) -> demo.DigitNet:
        seen.append(train)
        return dense(train, epochs, seed)

    monkeypatch.setattr(headline_cross_validation, "dense", watched)
    store = Store(tmp_path / "settings_search.json", asked)
    run(list(settings_search.tasks(asked, list(asked["candidates"])[:1]))[:1], store, 1)
    trained_on, judged_by = (set(map(bytes, images.numpy())) for images in (seen[0][0], demo.data("valid")[0]))
    assert not trained_on & judged_by
    (row,) = settings_search.summary(store.cells)
    assert 0 <= row["wrong"] <= 287
    assert 0 <= row["copies wrong"] <= 287 * settings_search.COPIES
    assert row["method"] in results_tables.markdown("settings_search", [row])


def test_the_stored_race_is_of_the_headlines_narrow_network() -> None:
    found = json.loads(Path(narrow_race_in_onnxruntime.__file__).with_name("narrow_race.json").read_text("utf-8"))
    channels = headline_cross_validation.SETTINGS[found["setting"]]["channels"][0]
    narrow = sw.compress(demo.model(), channels=channels, bits=32, example=demo.data("test")[0][:1])
    assert found["setting"] == headline_cross_validation.NARROW
    assert narrow.original_macs is not None
    assert narrow.macs is not None
    assert narrow.original_macs / narrow.macs == pytest.approx(found["fewer multiply-accumulates"], abs=0.01)
    faster = {at["batch"]: at["times"][1]["cpu"]["value"] for at in found["race"]["batches"]}
    assert f"{faster[32]:.1f}× as fast in ONNX Runtime at batch 32" in README


def test_the_dense_network_is_trained_as_the_demo_is() -> None:
    ours, theirs = headline_cross_validation.dense(demo.data("train"), 1, seed=0), train(1)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_no_image_is_in_both_parts_of_a_split() -> None:
    train_part, test_part, places = headline_cross_validation.split(0, 1)
    assert len(train_part[1]) + len(test_part[1]) == 1797  # validation images are always trained on
    everything = torch.cat(
        [headline_cross_validation.split(0, fold)[2] for fold in range(headline_cross_validation.FOLDS)]
    )
    assert sorted(everything.tolist()) == list(range(1510))
    assert len(places) == len(test_part[1])


@pytest.mark.parametrize("part", ["lenet", "fashion"])
def test_curves_reach_the_ratios_over_all_parameters(part: str, tmp_path: Path) -> None:
    setup = replace(train_accuracy_against_compression.setup_of(part, quick=True), images=200)
    _as_npz(tmp_path / setup.data)
    store = Store(tmp_path / f"{part}.json", train_accuracy_against_compression.settings(setup))
    run(train_accuracy_against_compression.tasks(setup, tmp_path, 1, quick=True), store, 1)
    summary = train_accuracy_against_compression.summary(store.cells)
    assert {row["method"] for row in summary} == {
        "dense",
        "dense, trained again",
        *train_accuracy_against_compression.ONE_SHOT,
        train_accuracy_against_compression.ITERATIVE,
    }
    for row in summary:
        assert row["compression"]["mean"] == pytest.approx(row["ratio"], rel=0.01)
    store.close(summary, 1.0)
    plot_accuracy_against_compression.write(tmp_path)
    assert (tmp_path / "accuracy_curves.png").read_bytes().startswith(b"\x89PNG")


def test_overhead_is_that_over_the_plain_loop(tmp_path: Path) -> None:
    _as_npz(tmp_path / "mnist")
    found = overhead.cells("LeNet", tmp_path, 1, epochs=1)
    assert found[0]["way"] == "plain loop"
    assert found[0]["overhead"] == 0
    assert len(json.dumps(overhead.summary(found))) > 100


def _as_npz(folder: Path) -> None:
    """Write the digits as 28×28 pixels."""
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        images, labels = demo.data("train" if part == "train" else "test")
        pixels = torch.nn.functional.pad(images[:300, 0] * 255, (10, 10, 10, 10)).byte().numpy()
        np.savez(folder / f"{part}.npz", images=pixels, labels=labels[:300].numpy())


def _never() -> Any:
    raise AssertionError("what is known is not done again")
