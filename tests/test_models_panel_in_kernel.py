"""What the side panel "Models" is told by a kernel, without a kernel."""

from __future__ import annotations

import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget.widgets.models_and_trainings_in_kernel import (
    close_explorer,
    list_models,
    open_explorer,
    stop_training,
)


def test_models_are_listed_once_under_all_their_names() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.LazyLinear(4))
    found = list_models({"net": model, "_": model, "also": model, "x": torch.ones(3), "kind": nn.Linear}).data
    (told,) = found["models"]
    assert told["name"] == "net"
    assert list(told["names"]) == ["also"]
    assert (told["class"], told["device"]) == ("Sequential", "cpu")
    assert told["parameters"] == 3 * 2 + 2 + 2 + 2, "what is not yet made has no parameters"
    assert told["bytes"] == 4 * (told["parameters"] + 2 + 2) + 8
    assert found["trainings"] == []


def test_a_training_is_listed_while_it_lasts_and_stopped() -> None:
    run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=10_000, background=True)
    names = {"run": run}
    (told,) = list_models(names).data["trainings"]
    assert told["model"] == "DigitNet"
    stop_training(names, told["id"])
    assert run.wait(30)
    assert run.state == "stopped"
    assert list_models(names).data["trainings"] == []


def test_a_model_opens_in_the_explorer_a_cell_has_opened_else_in_one_of_its_own() -> None:
    names = {"model": sw.demo.model(), "other": sw.demo.model()}
    ex = sw.explore(names["model"])
    assert open_explorer(names, "model").data == {"model_id": ex.model_id}
    close_explorer(ex.model_id)
    assert ex.explores(names["model"]), "it is the cell's, and stays open"
    own = open_explorer(names, "other").data
    assert own != {"model_id": ex.model_id}
    assert open_explorer(names, "other").data == own
    close_explorer(own["model_id"])
    assert open_explorer(names, "other").data != own
    close_explorer(open_explorer(names, "other").data["model_id"])
    ex.close()
