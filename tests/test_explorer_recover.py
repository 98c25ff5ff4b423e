"""The explorer's "Recover": the weights of `sw.recover`, a point and a result of their own, not on the test data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.figures.snapshot_size_score_history import shape_of
from shrinkwidget.widgets.explorer import Explorer

SECONDS = 120
RECIPE = sw.Recipe(sparsity=0.9, bits=4)
TRAIN = tuple(part[:96] for part in sw.demo.data("train"))
IMAGES, LABELS = sw.demo.data()
TEST = IMAGES[:64], LABELS[:64]
PROVENANCE = "recovered on 96 training examples, no retraining: error compensation, batch norm recalibrated"


@pytest.fixture
def ex() -> Iterator[Explorer]:
    explorer = sw.explore(sw.demo.model(), TEST, RECIPE, train_data=TRAIN)
    assert explorer.wait(SECONDS)
    yield explorer
    explorer.close()


def press(ex: Explorer, **command: Any) -> None:
    """Send a command as the page does, and wait for all that comes of it."""
    ex._on_command(ex, command, [])
    from shrinkwidget.widgets.explorer import _WORKER

    assert _WORKER.wait(ex._recovery_key, SECONDS)
    assert ex.wait(SECONDS)


def test_the_button_adds_a_point_of_the_same_bytes_and_shows_its_model(ex: Explorer, tmp_path: Path) -> None:
    plain, seen = ex.compress(), list[dict[str, Any]]()
    ex.observe(lambda change: seen.append(change["new"]), "_recovery")
    press(ex, do="recover")
    assert [told["state"] for told in (seen[0], seen[-1])] == ["running", "done"]
    assert any(told["text"].endswith("of 14") for told in seen)
    by_hand = sw.recover(sw.demo.model(), TRAIN, RECIPE, progress=False)
    small = ex.compress()
    assert all(torch.equal(x, by_hand.state_dict()[name]) for name, x in small.state_dict().items())
    before, after = ex.history
    assert (before["recovered"], after["recovered"], after["seed"]) == (False, True, None)
    assert after["nbytes"] == before["nbytes"] == plain.nbytes == small.save(tmp_path / "small.safetensors")
    assert after["provenance"] == small.provenance == PROVENANCE
    by_hand_score = sw.evaluate(small, TEST)
    assert ex.score == by_hand_score
    assert (after["value"], after["low"], after["n"]) == (by_hand_score.value, by_hand_score.low, 64)
    assert after["value"] > before["value"] + 0.2
    compared = sw.compare_predictions(sw.demo.model(), small, TEST)
    assert ex.comparison is not None
    assert ex.comparison.misread == compared.misread
    assert ex._keeps["variable"] == "recovered"
    assert ex._keeps["file"] == "digitnet-recovered.safetensors"
    press(ex, do="recover")  # once more is the same point
    assert len(ex.history) == 2


def test_it_is_left_and_gone_back_to_as_any_result_is(ex: Explorer) -> None:
    small = ex.recover()
    assert ex.compress() is small
    ex.sparsity = 0.5
    assert ex.wait(SECONDS)
    assert (ex._result, ex.compress().provenance) == ("", "no retraining")
    ex.recipe = RECIPE  # undone: the recipe alone is what it was
    assert ex.wait(SECONDS)
    assert ex.score is not None
    assert ex.score.provenance == "no retraining"
    (visit,) = [point for point in ex._history if point["recovered"]]
    press(ex, do="goto", result=visit["result"])
    assert ex.compress() is small
    assert ex.score.provenance == PROVENANCE


def test_it_makes_room_for_a_recipe_that_is_tried_meanwhile_and_does_not_take_its_place(ex: Explorer) -> None:
    def drag(change: dict[str, Any]) -> None:
        if change["new"].get("text", "").startswith("layer"):
            ex.sparsity = 0.5

    ex.observe(drag, "_recovery")
    small = ex.recover()
    assert ex.wait(SECONDS)
    assert [(point["recipe"].sparsity, point["recovered"]) for point in ex.history] == [
        (0.9, False),
        (0.5, False),
        (0.9, True),
    ]
    assert (ex.recipe.sparsity, ex._result) == (0.5, "")
    assert small.recipe == RECIPE


def test_stopped_it_leaves_nothing_behind(ex: Explorer) -> None:
    def stop(change: dict[str, Any]) -> None:
        if change["new"].get("text", "").startswith("layer"):
            ex.stop_recovery()

    ex.observe(stop, "_recovery")
    with pytest.raises(sw.errors.TrainingError, match="the recovery was stopped"):
        ex.recover()
    assert ex._recovery["state"] == "stopped"
    assert len(ex.history) == 1
    assert ex.compress().provenance == "no retraining"


def test_only_examples_that_are_not_scored_are_taken_and_the_provenance_names_them() -> None:
    model = sw.demo.model()
    ex = sw.explore(model, TEST, RECIPE)
    press(ex, do="recover")
    assert ex._recovery["state"] == "failed"
    assert "ex.recover(data)" in ex._recovery["text"]
    assert ex._recovery["why"] == ex._recovery["text"]
    for same in (TEST, TEST[0], IMAGES[60:90], [(TEST[0][:8], TEST[1][:8])], TEST[0].clone()):
        with pytest.raises(sw.errors.DataError, match="data is eval_data"):
            ex.recover(same)
    with pytest.raises(sw.errors.DataError, match="read only once"):
        ex.recover(iter([TRAIN]))
    with pytest.raises(sw.errors.TrainingError, match="whole number from 1"):
        ex.recover(TRAIN, examples=0)
    with pytest.raises(sw.errors.DataError, match="batch 1: it holds NaN"):
        ex.recover(TRAIN[0] * torch.nan)
    small = ex.recover(IMAGES[64:200], examples=48)  # without labels, and beside those that are scored
    assert small.provenance.startswith("recovered on 48 calibration examples, no retraining")
    assert ex._recovery["why"] == ""
    ex.close()
    same = sw.explore(model, TEST, RECIPE, train_data=TEST)
    assert "train_data is eval_data" in same._recovery["why"]
    same.close()
    both = sw.explore(model, TEST, RECIPE, train_data=TRAIN, calibration=TRAIN[0][:32])
    assert both.recover().provenance.startswith("recovered on 32 calibration examples")
    both.close()
    with pytest.raises(sw.errors.ModelError, match=r"give the nn\.Module"):
        sw.explore(model.state_dict()).recover(TRAIN)


class PartlyDead(nn.Module):
    """Its second layer gets zeros only, so that nothing can be compensated there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.dead, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return ten logits an image."""
        y: Tensor = self.first(x.flatten(1)).relu()
        z: Tensor = self.head(y + self.dead(y * 0))
        return z


def test_a_layer_whose_compensation_failed_is_listed_on_the_page_and_without_data_the_result_is_kept_all_the_same() -> (
    None
):
    model, sentence = PartlyDead(), "dead rounded without error compensation: the second moments of its inputs cannot"
    scored = sw.explore(model, TEST, bits=3, train_data=TRAIN)
    small = scored.recover()
    assert scored.wait(SECONDS)
    assert scored._score is not None
    assert [text[: len(sentence)] for text in scored._score["warnings"]][-1] == sentence
    assert small.provenance.endswith("error compensation, bias correction")
    scored.close()
    bare = sw.explore(model, bits=3)
    kept = bare.recover(TRAIN[0])
    assert bare.wait(SECONDS)
    assert bare.compress() is kept
    assert bare.history == []
    assert (bare.estimate.nbytes, bare.score) == (small.nbytes, None)
    bare.close()


def test_pictures_figures_and_pages_know_the_point(ex: Explorer, tmp_path: Path) -> None:
    ex.recover()
    assert ex.wait(SECONDS)
    assert [shape_of(point) for point in ex._history] == ["o", "s"]
    assert [row["series"] for row in sw.figures.table(ex.figure("tradeoff")).rows] == ["no retraining", "recovered"]
    assert PROVENANCE in ex._snapshot()["text/plain"]
    ex.to_html(tmp_path / "page.html")
    again = sw.explore(sw.demo.model(), TEST, RECIPE)
    assert again.wait(SECONDS)
    bare = again.to_html(tmp_path / "bare.html")
    assert (tmp_path / "page.html").stat().st_size > bare  # its figures and its score go with the page
    again.close()


def test_an_importance_that_looks_at_data_keeps_its_mask() -> None:
    ex = sw.explore(sw.demo.model(), TEST, sw.Recipe(sparsity=0.7, importance="wanda"), calibration=TRAIN[0])
    assert ex.wait(SECONDS)
    plain, small = ex.compress(), ex.recover(examples=48)  # of fewer examples than the mask was made from
    for name, codes in plain.encoded.items():
        one, other = codes.keep, small.encoded[name].keep
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    ex.close()
