"""What somebody types who has not read the documentation works, or is answered with the word to type instead."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import shrinkwidget as sw
from shrinkwidget.argument_checks import plain, refuse_unknown
from shrinkwidget.errors import folded
from shrinkwidget.recipe_and_method_registry import RecipeFields, every_setting
from shrinkwidget.training.methods_schedule_options_and_progress import (
    METHODS,
    TrainingFields,
    TrainingOptions,
    TrainingSpec,
)
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import STRATEGIES

from .training_helpers import mlp, points

HALF = sw.Recipe(sparsity=0.5)
guess: Any = sw
"""The package as it is to somebody without a type checker, which would refuse most of what follows."""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return sw.demo.model()


# A recipe, a number, or fields


@pytest.mark.parametrize(
    "args, fields, meant",
    [
        ((0.9,), {}, sw.Recipe(sparsity=0.9)),
        ((0.9,), {"bits": 4}, sw.Recipe(sparsity=0.9, bits=4)),
        ((), {"sparsity": 0.9, "bits": 4}, sw.Recipe(sparsity=0.9, bits=4)),
        ((np.float32(0.9),), {"bits": np.int64(4)}, sw.Recipe(sparsity=0.9, bits=4)),
        ((HALF,), {}, HALF),
        ((HALF,), {"bits": 3}, sw.Recipe(sparsity=0.5, bits=3)),
        ((HALF,), {"sparsity": 0.7}, sw.Recipe(sparsity=0.7)),
        ((0,), {}, sw.Recipe()),
    ],
)
def test_a_recipe_is_said_in_one_way_everywhere(
    args: tuple[Any, ...], fields: dict[str, Any], meant: sw.Recipe
) -> None:
    network = mlp()
    assert sw.compress(network, *args, **fields).recipe == meant
    assert sw.estimate(network, *args, **fields).recipe == meant
    assert sw.estimate(sw.sketch(network), *args, **fields).recipe == meant
    explorer = sw.explore(network, None, *args, **fields)
    assert explorer.recipe == meant
    explorer.close()


def test_names_in_a_recipe_are_taken_in_any_case() -> None:
    names: dict[str, Any] = dict(scope="Layer", structure="Unstructured", importance="Random", granularity="TENSOR")
    assert sw.Recipe(0.5, 4, quantizer="K-Means", **names) == sw.Recipe(
        0.5, 4, "layer", "unstructured", "random", "tensor", "kmeans"
    )


def test_pruning_and_retraining_takes_a_recipe_the_same_way() -> None:
    said: list[dict[str, Any]] = [
        {"recipe": 0.6, "bits": 4},
        {"sparsity": 0.6, "bits": 4},
        {"recipe": sw.Recipe(sparsity=0.6), "bits": np.int64(4)},
    ]
    for fields in said:
        small = sw.prune_and_retrain(mlp(), points(), rounds=1, epochs=1, **fields)
        assert small.recipe == sw.Recipe(sparsity=0.6, bits=4)
    by_default = sw.prune_and_retrain(mlp(), points(), rounds=1, epochs=1)
    assert by_default.recipe == sw.Recipe(sparsity=0.9)


def test_an_estimate_of_a_model_is_that_of_its_sketch() -> None:
    network = mlp()
    assert sw.estimate(network, 0.5, bits=3) == sw.estimate(sw.sketch(network), sw.Recipe(sparsity=0.5, bits=3))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda m: guess.compress(m),
            "there is nothing to do: give a recipe or its fields, such as sparsity=0.9, bits=4",
        ),
        (lambda m: guess.compress(m, 0.9, sparsity=0.8), r"given twice, as 0\.9 and as sparsity=0\.8: give it once"),
        (lambda m: guess.compress(m, 90), r"for 90 % write 0\.9"),
        (lambda m: guess.compress(m, True), "expected a Recipe or a sparsity, got a bool"),
        (lambda m: guess.compress(m, {"bits": 4}), r"got a dict: write Recipe\(\*\*fields\)"),
        (lambda m: guess.compress(m, HALF.to_json()), r"got a str: write Recipe\.from_json"),
        (
            lambda m: guess.explore(m, points(), points()),
            r"got a tuple: data is given by name, as train_data=… or eval_data=",
        ),
        (
            lambda m: guess.compress(m, guess.Recipe(structure="2:4"), sparsity=0.9),
            "structure '2:4' fixes the sparsity at 0.5",
        ),
        (lambda m: guess.compress(m, bits="four"), r"Recipe\(bits='four'\) must be one of"),
        (lambda m: guess.estimate(guess.sketch(m), 0.5, layout="in_out"), "a sketch has its layout already"),
        (lambda m: guess.prune_and_retrain(m, points(), recipe=0.5, sparsity=0.4), "given twice"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_answered(call: Callable[[nn.Module], object], sentence: str) -> None:
    with pytest.raises((sw.errors.RecipeError, sw.errors.ArgumentError), match=sentence):
        call(mlp())


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda m: guess.evaluate(m, *points()), r"inputs and targets go together: give \(inputs, targets\)"),
        (
            lambda m: guess.evaluate(m, points(), nn.MSELoss),
            r"metric=MSELoss is a class: give an object of it",
        ),
        (lambda m: guess.retrain(m, points(), loss=nn.MSELoss), r"loss=MSELoss\) is a class: give an object of it"),
        (lambda m: guess.compress(m, guess.estimate(m, 0.5)), r"got an Estimate: give its \.recipe"),
        (
            lambda m: guess.retrain(guess.explore(m), points()),
            r"cannot train an Explorer: give what its \.compress\(\)",
        ),
        (lambda _: guess.sketch(nn.Linear), r"cannot look at the class Linear: give a model made of it, Linear\(…\)"),
        (lambda _: guess.sketch(np.ones((2, 2))), r'give a state dict with its name, {"weight": …}'),
        (
            lambda _: guess.compress({"w": np.ones((2, 2), np.longdouble)}, 0.5),
            r"with \.astype\('float64'\)",
        ),
        (
            lambda _: guess.compress({"w": [[1.0, 2.0], [3.0, 4.0]]}, 0.5),
            r"of type list; .* with np\.array",
        ),
    ],
)
def test_what_is_nearly_right_is_told_how_it_is_right(call: Callable[[nn.Module], object], sentence: str) -> None:
    with pytest.raises(sw.errors.ShrinkError, match=sentence) as caught:
        call(mlp())
    assert "\n" not in str(caught.value)


# Keywords


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda m: guess.compress(m, sparisty=0.9),
            r"compress\(\) has no argument 'sparisty'; did you mean 'sparsity'",
        ),
        (lambda m: guess.compress(m, amount=0.9), "did you mean 'sparsity'"),
        (lambda m: guess.estimate(m, nbits=4), "did you mean 'bits'"),
        (lambda m: guess.explore(m, data=points()), "did you mean 'eval_data' or 'train_data'"),
        (lambda m: guess.explore(m, test=points()), "did you mean 'eval_data'"),
        (lambda m: guess.explore(m, train=points()), "did you mean 'train_data'"),
        (lambda m: guess.evaluate(m, data=points()), "did you mean 'eval_data'"),
        (lambda m: guess.evaluate(m, points(), Batch_Size=3), "did you mean 'batch_size'"),
        (lambda m: guess.sketch(m, lay_out="in_out"), "did you mean 'layout'"),
        (lambda m: guess.load("small.safetensors", onto=m), "did you mean 'into'"),
        (lambda m: guess.fold_batchnorm(m, exmaple=1), "did you mean 'example'"),
        (lambda m: guess.monitor(runn=m), "did you mean 'run'"),
        (lambda m: guess.retrain(m, points(), learning_rate=0.1), "did you mean 'lr'"),
        (lambda m: guess.retrain(m, points(), epoch=3), "did you mean 'epochs'"),
        (lambda m: guess.retrain(m, points(), test=points()), "did you mean 'eval_data'"),
        (lambda m: guess.retrain(m, points(), batch=3), "did you mean 'batch_size'"),
        (lambda m: guess.retrain(m, points(), momentum=0.5), r"write method=\w+\(schedule=Schedule\(momentum=…\)\)"),
        (lambda m: guess.retrain(m, points(), sparsity=0.9), r"write retrain\(compress\(model, sparsity=…\), …\)"),
        (lambda m: guess.prune_and_retrain(m, points(), structure="2:4"), r"write recipe=Recipe\(structure=…\)"),
        (lambda m: guess.transfer(m, points(), rank=4), r"write strategy=\w+\(rank=…\)"),
        (lambda _: guess.demo.few(perclass=3), "did you mean 'per_class'"),
        (
            lambda m: guess.transfer(m, points(), zzz=4),
            r"has no argument 'zzz'\. Its arguments: model, train_data",
        ),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_nearest(call: Callable[[nn.Module], object], sentence: str) -> None:
    with pytest.raises(sw.errors.ArgumentError, match=sentence) as caught:
        call(mlp())
    assert isinstance(caught.value, TypeError), "what Python itself raises, so that code written for it goes on working"


def public_functions() -> list[Callable[..., object]]:
    found = [getattr(module, name) for module in (sw, sw.demo) for name in module.__all__]
    return [one for one in found if inspect.isfunction(one)]


@pytest.mark.parametrize("function", public_functions(), ids=lambda function: function.__name__)
def test_every_public_function_answers_a_keyword_it_does_not_have(function: Callable[..., object]) -> None:
    with pytest.raises(sw.errors.ArgumentError, match=rf"{function.__name__}\(\) has no argument 'zzz'"):
        function(zzz=1)
    names = set(inspect.signature(function).parameters)
    if function is sw.race:
        names -= {"batch"}  # the batch sizes to race at, one or several; nothing is cut into batches of it
    assert not names & {"data", "train", "test", "valid", "batch", "batches", "learning_rate"}, "one word for one thing"


def dataclasses_to_make() -> list[type]:
    found: list[Any] = [getattr(sw.methods, name) for name in sw.methods.__all__] + [sw.Recipe]
    bases = (sw.methods.Importance, sw.methods.Quantizer, sw.methods.Structure)
    return [kind for kind in found if isinstance(kind, type) and is_dataclass(kind) and kind not in bases]


@pytest.mark.parametrize("kind", dataclasses_to_make(), ids=lambda kind: kind.__name__)
def test_an_unknown_field_is_answered_with_the_nearest(kind: type) -> None:
    known = [*inspect.signature(kind).parameters]
    wrong = f"{known[0]}_" if known else "bits"
    near = f"; did you mean '{known[0]}'" if known else r"\. It has none"
    with pytest.raises(sw.errors.ShrinkError, match=f"{kind.__name__} has no field '{wrong}'{near}"):
        kind(**{wrong: 1})


def test_batch_and_learning_rate_are_what_others_call_them() -> None:
    unknown: Any = {"batch": 32}
    with pytest.raises(
        sw.errors.TrainingError, match="TrainingOptions has no field 'batch'; did you mean 'batch_size'"
    ):
        sw.methods.TrainingOptions(**unknown)
    with pytest.raises(sw.errors.TrainingError, match="did you mean 'lr'"):
        guess.methods.Schedule(learning_rate=0.1)


def test_a_name_like_none_is_answered_with_all() -> None:
    with pytest.raises(sw.errors.ArgumentError, match=r"f\(\) has no argument 'zzz'\. Its arguments: a, b"):
        refuse_unknown(["zzz"], ["a", "b"], "f()")


def test_typed_keywords_are_the_fields() -> None:
    recipe = [name for name in inspect.signature(sw.Recipe).parameters if name != "settings"]
    typed = {*RecipeFields.__annotations__}
    assert {*recipe} < typed <= {*recipe, *every_setting()}, "settings of kinds need not be typed, but may"
    options = {*TrainingFields.__annotations__} - {"epochs", "lr", "optimizer"}
    assert options == {*inspect.signature(TrainingOptions).parameters}


def test_help_and_completion_show_the_fields() -> None:
    shown = inspect.signature(sw.compress).parameters
    assert {"sparsity", "bits", "layout"} <= set(shown)
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())
    assert {"epochs", "lr", "batch_size", "loss"} <= set(inspect.signature(sw.retrain).parameters)


# How to train


def schedule_of(run: sw.results.TrainingRun[Any]) -> Any:
    assert isinstance(run.spec, TrainingSpec)
    return run.spec.stage.schedule


@pytest.mark.parametrize("optimizer", ["SGD", "sgd", "Sgd", torch.optim.SGD])
def test_an_optimizer_is_named_or_given_as_its_class(optimizer: Any) -> None:
    assert sw.methods.Schedule(optimizer=optimizer) == sw.methods.Schedule(optimizer="sgd")
    assert sw.methods.Schedule(optimizer="AdamW").optimizer == "adamw"


def test_a_class_without_a_name_gets_the_rate_of_the_schedule() -> None:
    schedule = sw.methods.Schedule(lr=0.02, optimizer=torch.optim.NAdam)
    made = schedule.optimizer_of([nn.Parameter(torch.zeros(2))])
    assert isinstance(made, torch.optim.NAdam)
    assert made.param_groups[0]["lr"] == 0.02


@pytest.mark.parametrize(
    "method, provenance",
    [
        ("finetune", "fine-tuned 2 epochs"),
        ("Fine-Tune", "fine-tuned 2 epochs"),
        (sw.methods.FineTune, "fine-tuned 2 epochs"),
        (sw.methods.FineTune(epochs=7), "fine-tuned 2 epochs"),
        ("learning_rate_rewinding", "retrained 2 epochs, learning rate rewound"),
        ("Learning Rate Rewinding", "retrained 2 epochs, learning rate rewound"),
    ],
)
def test_a_method_is_named_and_its_settings_written_beside_it(method: Any, provenance: str) -> None:
    small = sw.compress(mlp(), 0.5)
    run = guess.retrain(
        small,
        points(),
        points(30),
        method,
        epochs=2,
        lr=0.02,
        optimizer="Adam",
        batch_size=np.int64(48),
        background=True,
    )
    assert run.wait(60)
    assert run.result.provenance == provenance
    assert (schedule_of(run).optimizer, run.spec.stage.rate(0.0), run.history[0]["step"]) == ("adam", 0.02, 2)


@pytest.mark.parametrize("name, kind", [*METHODS.items(), *STRATEGIES.items()])
def test_a_name_is_that_of_the_class(name: str, kind: type) -> None:
    assert folded(name) == folded(kind.__name__)
    assert getattr(sw.methods, kind.__name__) is kind


def test_batch_norm_is_recalibrated_by_name() -> None:
    small = sw.compress(mlp(), 0.5)
    assert sw.retrain(small, points(), method="recalibrate_batchnorm").provenance == "batch norm recalibrated"


def test_keywords_beside_options_change_them() -> None:
    options = sw.methods.TrainingOptions(batch_size=48, seed=3)
    run = guess.retrain(
        mlp(), points(), epochs=1, options=options, seed=np.int64(5), metric="Accuracy", background=True
    )
    assert run.wait(60)
    assert (run.spec.options.batch_size, run.spec.options.seed) == (48, 5)


@pytest.mark.parametrize(
    "strategy, words",
    [
        ("linear_probe", "new head trained 2 epochs"),
        ("Linear-Probe", "new head trained 2 epochs"),
        ("full_finetune", "all fine-tuned 2 epochs"),
        ("LoRA", "updates of rank 4 trained 2 epochs"),
        (sw.methods.LoRA(rank=2), "updates of rank 2 trained 2 epochs"),
        ("gradual_unfreezing", "unfrozen in 3 stages"),
    ],
)
def test_a_strategy_is_named(strategy: Any, words: str) -> None:
    taught = sw.transfer(mlp(), points(), points(30), strategy=strategy, epochs=2, lr=0.01, optimizer=torch.optim.Adam)
    assert words in taught.provenance
    assert taught.score is not None
    assert 0 <= float(taught.score) <= 1


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: guess.retrain(mlp(), points(), method="finetun"), r"got 'finetun'; did you mean 'finetune'\?"),
        (lambda: guess.retrain(mlp(), points(), "finetune"), r"eval_data='finetune' is a method: write method="),
        (
            lambda: guess.retrain(mlp(), points(), guess.methods.FineTune()),
            r"eval_data=FineTune.* is a method: write method=",
        ),
        (
            lambda: guess.retrain(mlp(), points(), method="weight_rewinding"),
            r"needs more than its name, write method=WeightRewinding\(schedule=…, state_dict=…\)",
        ),
        (lambda: guess.retrain(mlp(), points(), method="gradual_pruning"), "give it to prune_and_retrain"),
        (
            lambda: guess.retrain(mlp(), points(), method="recalibrate_batchnorm", epochs=2),
            "does not take epochs=…: leave it out",
        ),
        (lambda: guess.retrain(mlp(), points(), epochs=0), r"FineTune\(epochs=0\) must be a whole number from 1"),
        (lambda: guess.retrain(mlp(), points(), optimizer="sdg"), r"got 'sdg'; did you mean 'sgd'"),
        (
            lambda: guess.retrain(mlp(), points(), optimizer=torch.optim.SGD(mlp().parameters(), lr=0.1)),
            r"a copy of the model is trained: give the class, optimizer=torch\.optim\.SGD",
        ),
        (
            lambda: guess.retrain(mlp(), points(), options={"batch_size": 3}),
            r"options must be sw\.methods\.TrainingOptions\(…\), got a dict",
        ),
        (lambda: guess.transfer(mlp(), points(), strategy="linear"), "did you mean 'linear_probe'"),
        (lambda: guess.transfer(mlp(), points(), strategy=3), "must be a name such as 'linear_probe', or an object"),
        (lambda: guess.methods.Schedule(decay="cosin"), "did you mean 'cosine'"),
        (lambda: guess.methods.TrainingOptions(loss="crossentropi"), "did you mean 'cross_entropy'"),
    ],
)
def test_a_training_that_cannot_be_meant_is_answered(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(sw.errors.TrainingError, match=sentence):
        call()


def test_a_method_of_ones_own_keeps_its_settings() -> None:
    class Mine:
        def stage(self) -> Any:
            return sw.methods.FineTune(1, lr=0.01).stage()

        def words(self, epochs: str) -> str:
            return f"mine {epochs}"

    assert sw.retrain(mlp(), points(), method=Mine()).provenance == "mine 1 epoch"
    with pytest.raises(sw.errors.TrainingError, match="Mine does not take lr=…: leave it out"):
        sw.retrain(mlp(), points(), method=Mine(), lr=0.1)


# Numbers


def test_a_score_is_a_number() -> None:
    better, worse = (sw.evaluate(mlp(seed), points()) for seed in (1, 0))
    better, worse = max(better, worse), min(better, worse)
    assert float(better) == better.value
    assert worse < better
    assert better > worse
    assert better >= better.value >= worse
    assert worse <= 1
    assert f"{better:.3f}" == f"{better.value:.3f}"
    assert f"{better}" == repr(better)
    assert np.mean(np.array([better, worse], dtype=float)) == (better.value + worse.value) / 2
    assert sw.Score.from_dict(json.loads(json.dumps(better.to_dict()))).value == better.value


def test_scores_of_two_metrics_are_not_compared() -> None:
    error = sw.evaluate(nn.Linear(8, 3), (torch.zeros(4, 8), torch.zeros(4, 3)), "MSE")
    with pytest.raises(sw.errors.ArgumentError, match="accuracy and mse cannot be compared"):
        _ = sw.evaluate(mlp(), points()) > error


def test_scores_of_a_run_are_those_of_the_explorer() -> None:
    run = sw.retrain(mlp(), points(), points(30), epochs=1, background=True)
    assert run.wait(60)
    assert isinstance(run.score, sw.Score)
    assert isinstance(run.baseline, sw.Score)
    alone = sw.Score.from_dict(sw.evaluate(mlp(), points(30)).to_dict())
    assert alone.provenance == "as given"
    assert run.baseline == replace(alone, provenance="no retraining")  # what is known of it before the training
    assert run.score.value == run.history[-1]["test"]["value"]


def test_numbers_of_numpy_are_numbers() -> None:
    explorer = guess.explore(mlp())
    explorer.bits, explorer.sparsity = np.int64(4), np.float32(0.9)
    assert explorer.recipe == guess.Recipe(sparsity=0.9, bits=4)
    explorer.bits, explorer.sparsity = np.array(3), torch.tensor(0.5)
    assert explorer.recipe == guess.Recipe(sparsity=0.5, bits=3)
    assert (type(explorer.bits), type(explorer.sparsity)) == (int, float)
    explorer.close()
    assert guess.evaluate(mlp(), points(), ignore_index=np.int64(2), batch_size=np.int64(7)).n == 64
    assert guess.methods.LoRA(rank=np.int64(4)).rank == 4
    assert len(guess.demo.few(np.int64(2))[1]) == 20
    assert (
        guess.transfer(mlp(), points(), classes=np.int64(5), epochs=np.int64(1)).model.get_submodule("4").out_features
        == 5
    )


@pytest.mark.parametrize("bad", ["4", 4.5, None, np.float64(2.5)])
def test_what_is_no_number_of_bits_is_refused_by_the_trait(bad: Any) -> None:
    explorer = sw.explore(mlp())
    with pytest.raises(Exception, match="bits"):
        explorer.bits = bad
    assert explorer.recipe == sw.Recipe()
    explorer.close()


def test_short_floats_mean_what_was_typed() -> None:
    assert plain(np.float32(0.9)) == plain(np.array(0.9, dtype=np.float32)) == 0.9
    assert plain(np.float16(0.5)) == 0.5
    assert [plain(x) for x in (True, "a", None, [np.int64(1)])] == [True, "a", None, [np.int64(1)]]
    assert type(plain(np.bool_(True))) is bool


# Data and models


def test_a_score_comes_batch_by_batch(model: nn.Module) -> None:
    small, data = sw.compress(model, 0.5), sw.demo.data("test")
    found = list(sw.evaluate(small, data, stream=True, batch_size=100))
    assert [score.n for score in found] == [100, 200, 300, 360, 360]
    assert [score.done for score in found] == [False] * 4 + [True]
    assert found[-1] == sw.evaluate(small, TensorDataset(*data), batch_size=33)
    with pytest.raises(sw.errors.DataError, match="batch_size=0 must be a whole number from 1"):
        sw.evaluate(model, data, batch_size=0)


def test_data_has_one_name_and_its_natural_place() -> None:
    for function in (guess.retrain, guess.prune_and_retrain, guess.transfer):
        assert [*inspect.signature(function).parameters][:3] == ["model", "train_data", "eval_data"]
    for function in (guess.evaluate, guess.explore):
        assert [*inspect.signature(function).parameters][:2] == ["model", "eval_data"]
    loader = DataLoader(TensorDataset(*points()), batch_size=32)
    assert sw.retrain(mlp(), loader, loader, epochs=1).provenance == "fine-tuned 1 epoch"


def state_of(source: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in source.state_dict().items()}


def a_file(model: nn.Module, folder: Path) -> object:
    save_file(state_of(model), folder / "model.safetensors")
    return folder / "model.safetensors"


def a_folder(model: nn.Module, folder: Path) -> object:
    a_file(model, folder)
    (folder / "config.json").write_text("{}")
    return str(folder)


def a_sharded_folder(model: nn.Module, folder: Path) -> object:
    weight_map = {}
    for number, name in enumerate(state_of(model)):
        shard = f"model-{number % 2 + 1:05}-of-00002.safetensors"
        weight_map[name] = shard
    for shard in set(weight_map.values()):
        save_file({n: t for n, t in state_of(model).items() if weight_map[n] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def an_index(model: nn.Module, folder: Path) -> object:
    a_sharded_folder(model, folder)
    return folder / "model.safetensors.index.json"


def arrays(model: nn.Module, _folder: Path) -> object:
    return {name: tensor.numpy() for name, tensor in state_of(model).items()}


@pytest.mark.parametrize("form", [a_file, a_folder, a_sharded_folder, an_index, arrays])
def test_a_model_is_taken_in_every_form(form: Callable[[nn.Module, Path], Any], tmp_path: Path) -> None:
    network = mlp()
    source = form(network, tmp_path)
    whole = sw.compress(network, 0.5, bits=4)
    # batch norm's statistics come in the order of the file's names: the weights are the same
    small = sw.compress(source, 0.5, bits=4)
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert sw.sketch(source).parameters == sum(p.numel() for p in network.parameters())
    assert sw.estimate(source, 0.5, bits=4).sparsity == whole.estimate.sparsity  # type: ignore[union-attr]
    assert sw.summary(source).safetensors == sw.summary(network.state_dict()).safetensors
    explorer = sw.explore(source, sparsity=0.5)
    assert explorer.recipe == HALF
    explorer.close()


def test_float64_arrays_are_compressed() -> None:
    rng = np.random.default_rng(0)
    state = {"fc.weight": rng.standard_normal((8, 16)), "fc.bias": rng.standard_normal(8)}
    small = sw.compress(state, 0.5, bits=4)
    assert small.state_dict()["fc.weight"].shape == (8, 16)
    assert int((small.state_dict()["fc.weight"] == 0).sum()) >= 64
    x, y = points()
    doubles = (x.double().numpy(), y.numpy())
    for action in (guess.evaluate, guess.retrain, guess.transfer):
        with pytest.raises(
            sw.errors.DataError, match=r"the weights are float32: convert the inputs with \.astype\('float32'\)"
        ):
            action(mlp(), doubles)


def test_names_of_layouts_and_splits_are_understood() -> None:
    with pytest.raises(sw.errors.ModelError, match=r"did you mean 'in_out'\?$"):
        sw.sketch({"w": np.ones((3, 4), np.float32)}, layout="In-Out")
    assert torch.equal(guess.demo.data("Test")[1], sw.demo.data("test")[1])
    with pytest.raises(sw.errors.DataError, match="did you mean 'valid'"):
        guess.demo.data("validation")


# What is public


def test_the_top_of_the_package_is_short_and_says_the_same_to_everyone() -> None:
    public = set(sw.__all__)
    assert public == {name for name in dir(sw) if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(sw, name), ModuleType)}
    assert modules == {"demo", "errors", "figures", "methods", "performance", "results", "workshop"}
    assert 15 <= len(public - modules) <= 28
    assert all(hasattr(sw, name) for name in public)
    for module in (sw.methods, sw.errors, sw.results):
        assert all(hasattr(module, name) for name in module.__all__)
        assert importlib.import_module(module.__name__) is module


@pytest.mark.parametrize(
    "name, words",
    [
        ("LoRA", r"; it is shrinkwidget\.methods\.LoRA$"),
        ("RecipeError", r"; it is shrinkwidget\.errors\.RecipeError$"),
        ("prune", r"; did you mean 'compress'\?$"),
        ("retrian", r"; did you mean 'retrain'\?$"),
        ("zzz", "has no attribute 'zzz'$"),
    ],
)
def test_a_name_that_is_not_at_the_top_says_where_it_is(name: str, words: str) -> None:
    with pytest.raises(AttributeError, match=words):
        getattr(sw, name)
    assert not hasattr(sw, name)


def test_every_error_is_where_its_name_is_looked_for() -> None:
    kinds = [getattr(sw.errors, name) for name in sw.errors.__all__]
    assert all(issubclass(kind, sw.errors.ShrinkError) for kind in kinds)
