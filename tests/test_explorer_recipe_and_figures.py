"""The explorer's Python side: a recipe anybody may set, figures that follow, failures that are told."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import FloatSlider, interactive_output, link
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.widgets import base_widget_and_snapshot, close_widgets_on_cell_rerun, keep_and_save
from shrinkwidget.widgets.explorer import Explorer

SECONDS = 60


@pytest.fixture
def model() -> nn.Module:
    return sw.demo.model()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    images, labels = sw.demo.data()
    return images[:64], labels[:64]


@pytest.fixture
def ex(model: nn.Module, data: tuple[Tensor, Tensor]) -> Iterator[Explorer]:
    explorer = sw.explore(model, data)
    yield explorer
    explorer.close()


def settled(explorer: Explorer) -> Explorer:
    assert explorer.wait(SECONDS)
    return explorer


def test_it_starts_with_nothing_done(ex: Explorer) -> None:
    assert ex.recipe == sw.Recipe()
    assert (ex.sparsity, ex.bits) == (0.0, 32)
    assert settled(ex).estimate.exact
    assert ex._baseline is not None
    assert ex._baseline["value"] == ex.score.value  # type: ignore[union-attr]
    assert Sketch.decode(ex._sketch).title == "DigitNet"


def test_figures_follow_the_recipe_and_equal_what_compress_makes(ex: Explorer, model: nn.Module, data: Any) -> None:
    ex.recipe = sw.Recipe(sparsity=0.8, bits=4)
    settled(ex)
    small = sw.compress(model, ex.recipe)
    assert ex._exact["recipe"] == ex.recipe.to_json()
    assert ex.estimate.nbytes == small.nbytes
    assert ex._exact["nbytes_entropy_coded"] == small.nbytes_entropy_coded < small.nbytes
    assert small.model is not None
    assert ex.score == sw.evaluate(small, data)


def test_recipe_value_sparsity_and_bits_are_one(ex: Explorer) -> None:
    seen: list[sw.Recipe] = []
    ex.observe(lambda change: seen.append(change["new"]), "recipe")
    ex.sparsity = 0.5
    ex.bits = 4
    ex._recipe = sw.Recipe(sparsity=0.25, bits=3).to_json()
    ex.value = sw.Recipe(sparsity=0.125)
    assert [(r.sparsity, r.bits) for r in seen] == [(0.5, 32), (0.5, 4), (0.25, 3), (0.125, 32)]
    assert ex.recipe == ex.value == sw.Recipe.from_json(ex._recipe) == sw.Recipe(sparsity=0.125)
    assert (ex.sparsity, ex.bits) == (0.125, 32)


def test_a_sparsity_of_its_own_ends_an_n_m_pattern(ex: Explorer) -> None:
    ex.recipe = sw.Recipe(structure="2:4")
    assert ex.sparsity == 0.5
    ex.sparsity = 0.9
    assert ex.recipe == sw.Recipe(sparsity=0.9)


def test_linked_sliders_and_interactive_output_work(ex: Explorer) -> None:
    slider = FloatSlider(max=0.99)
    link((slider, "value"), (ex, "sparsity"))
    slider.value = 0.75
    assert ex.recipe.sparsity == 0.75
    seen: list[sw.Recipe] = []
    output = interactive_output(lambda recipe: seen.append(recipe), {"recipe": ex})
    ex.bits = 2
    assert seen[-1] == sw.Recipe(sparsity=0.75, bits=2)
    output.close()


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("sparsity", 1.5, "must be a fraction"),
        ("bits", 9, "must be one of 1, 2, 3"),
        ("_recipe", "{", "not valid JSON"),
        ("_recipe", sw.Recipe(layers={"stam": sw.Keep}).to_json(), "did you mean 'stem'"),
    ],
)
def test_what_no_recipe_can_be_is_put_back_and_told(ex: Explorer, name: str, value: Any, sentence: str) -> None:
    ex.recipe = before = sw.Recipe(sparsity=0.5)
    if name == "_recipe":  # from the browser, which can only be told
        setattr(ex, name, value)
    else:
        with pytest.raises(sw.errors.RecipeError, match=sentence):
            setattr(ex, name, value)
    assert ex.recipe == before
    assert (ex.sparsity, ex.bits, ex._recipe) == (0.5, 32, before.to_json())
    assert ex._status["state"] == "failed"
    assert sentence in ex._status["text"]


def test_setting_a_recipe_that_does_not_fit_is_refused(ex: Explorer) -> None:
    with pytest.raises(sw.errors.RecipeError, match="did you mean 'head'"):
        ex.recipe = sw.Recipe(layers={"haed": sw.Keep})
    assert ex.recipe == sw.Recipe()


def test_history_collects_each_evaluated_recipe_once(ex: Explorer) -> None:
    settled(ex)
    for sparsity in (0.5, 0.8, 0.5):
        ex.sparsity = sparsity
        settled(ex)
    assert [point["recipe"].sparsity for point in ex.history] == [0.0, 0.5, 0.8]
    assert ex.history[2]["nbytes"] < ex.history[1]["nbytes"]


def test_the_users_model_is_never_touched(ex: Explorer, model: nn.Module) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ex.recipe = sw.Recipe(sparsity=0.9, bits=2)
    settled(ex)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Backwards(nn.Module):
    """Defines its layers in another order than it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.first = nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        return self.last(self.first(x))


def test_layers_come_in_the_order_of_the_forward_pass() -> None:
    explorer = settled(sw.explore(Backwards(), (torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))))
    assert [layer.label for layer in explorer.sketch.layers] == ["last", "first.0"]
    assert explorer._order == [1, 0]
    assert explorer._macs == [8, 12]
    explorer.close()


def test_without_data_there_are_figures_and_no_score(model: nn.Module) -> None:
    explorer = settled(sw.explore(model, recipe=sw.Recipe(sparsity=0.5)))
    assert explorer.estimate.exact
    assert explorer.score is None
    assert explorer._metric["has_data"] is False
    explorer.close()


@pytest.mark.parametrize("kind", ["state dict", "path"])
def test_weights_alone_can_be_explored(model: nn.Module, kind: str, tmp_path: Path) -> None:
    source: Any = model.state_dict()
    if kind == "path":
        sw.compress(model, sw.Recipe())
        from safetensors.torch import save_file

        save_file(source, tmp_path / "model.safetensors")
        source = tmp_path / "model.safetensors"
    explorer = settled(sw.explore(source, recipe=sw.Recipe(sparsity=0.5, bits=4)))
    assert explorer.estimate.nbytes == explorer.compress().nbytes
    with pytest.raises(sw.errors.DataError, match="accuracy needs a module"):
        sw.explore(source, eval_data=([1], [1]))
    explorer.close()


def failing(*_args: object) -> float:
    raise ZeroDivisionError("no such luck")


@pytest.mark.parametrize(
    "bad, sentence",
    [
        ({"eval_data": (torch.zeros(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))}, "batch 1: the model cannot run"),
        ({"eval_data": []}, "the data is empty"),
        ({"metric": failing}, "no such luck"),
    ],
)
def test_an_evaluation_that_fails_is_told_and_the_explorer_stays_usable(
    model: nn.Module, data: Any, bad: dict[str, Any], sentence: str
) -> None:
    explorer = settled(sw.explore(model, **{"eval_data": data, **bad}))
    assert explorer._score is not None
    assert explorer._score["state"] == "failed"
    assert sentence in explorer._score["text"]
    explorer.sparsity = 0.5
    assert settled(explorer).estimate.exact
    assert explorer.compress().nbytes == explorer.estimate.nbytes
    explorer.close()


def test_one_failure_is_logged_once_and_shows_the_users_own_code(
    model: nn.Module, data: Any, caplog: pytest.LogCaptureFixture
) -> None:
    explorer = settled(sw.explore(model, data, metric=failing))
    explorer.sparsity = 0.5
    settled(explorer)
    explorer.close()
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_failure_that_its_sentence_explains_leaves_no_traceback(
    ex: Explorer, caplog: pytest.LogCaptureFixture
) -> None:
    ex._on_command(ex, {"do": "save", "path": ""}, [])
    settled(ex)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "no file name" in record.getMessage()
    assert not record.exc_info


class Batches:
    """Data that waits before every batch but the first until it is let on."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches
        self.let_on = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            if number:
                self.let_on.wait(SECONDS)
            yield batch


def test_a_long_evaluation_shows_the_recipes_score_from_its_first_batch_on(model: nn.Module, data: Any) -> None:
    batches = Batches(data, data)
    explorer = sw.explore(model, batches, recipe=sw.Recipe(sparsity=0.5))
    scores: queue.Queue[Any] = queue.Queue()
    explorer.observe(lambda change: scores.put(change["new"]), "_score")
    if explorer._score is not None:  # it was quicker than this thread
        scores.put(explorer._score)
    try:
        first = scores.get(timeout=SECONDS / 2)
        baseline = explorer._baseline
    finally:
        batches.let_on.set()
    assert (first["state"], first["n"]) == ("running", 64)
    assert baseline is None
    settled(explorer)
    assert explorer._baseline is not None
    assert explorer._baseline["n"] == explorer.score.n == 128  # type: ignore[union-attr]
    explorer.close()


@pytest.mark.parametrize(
    "bad, error, sentence",
    [
        ({"model": 3}, sw.errors.ModelError, "give an nn.Module"),
        ({"model": "nowhere.safetensors"}, sw.errors.FileError, "there is no file"),
        ({"model": nn.BatchNorm1d(3)}, sw.errors.ModelError, "nothing to compress"),
        ({"eval_data": iter([])}, sw.errors.DataError, "can be read only once"),
        ({"eval_data": 5}, sw.errors.DataError, "cannot evaluate on data of type int"),
        ({"eval_data": "mnist"}, sw.errors.DataError, "cannot evaluate on data of type str"),
        ({"metric": "acuracy"}, sw.errors.DataError, "accuracy"),
        ({"recipe": sw.Recipe(layers={"steem": sw.Keep})}, sw.errors.RecipeError, "did you mean 'stem'"),
        ({"recipe": {"bits": 4}}, sw.errors.RecipeError, "expected a Recipe or a sparsity, got a dict"),
    ],
)
def test_what_cannot_be_explored_is_refused_at_once(
    model: nn.Module, data: Any, bad: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        sw.explore(**{"model": model, "eval_data": data, **bad})


def test_closing_lets_go_of_the_model(data: Any) -> None:
    model = sw.demo.model()
    alive = weakref.ref(model)
    explorer = settled(sw.explore(model, data))
    explorer.sparsity = 0.5
    settled(explorer)
    explorer.close()
    del model
    gc.collect()
    assert alive() is None
    with pytest.raises(sw.errors.ShrinkError, match="this explorer is closed"):
        explorer.compress()


def test_running_a_cell_again_closes_what_it_made_before(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(message: str) -> list[Explorer]:
        monkeypatch.setattr(close_widgets_on_cell_rerun, "_current_cell", lambda: ("cell", message))
        return [sw.explore(model), sw.explore(model)]

    first, second = run("first run"), run("second run")
    assert [repr(explorer) for explorer in first] == ["Explorer(closed)"] * 2
    assert all(explorer.estimate.nbytes > 0 for explorer in second)
    for explorer in second:
        explorer.close()


def test_a_picture_is_shown_where_no_widget_can_live(ex: Explorer) -> None:
    bundle = settled(ex)._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "699,328" in bundle["text/plain"] or "kB" in bundle["text/plain"]


def test_the_pictures_under_all_views_are_one_display(ex: Explorer, shell: InteractiveShell) -> None:
    assert shell is not None
    ex._ipython_display_()
    first = ex._shown.display_id
    ex._ipython_display_()
    assert ex._shown.display_id == first


class Shown:
    """A display that writes down what it was told to show."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.alts: list[str] = []

    def update(self, bundle: dict[str, Any], metadata: dict[str, Any], **_options: bool) -> None:
        self.texts.append(bundle["text/plain"])
        self.alts.append(metadata["image/png"]["alt"])


def test_what_a_closed_explorer_leaves_behind_shows_its_last_recipe(model: nn.Module, data: Any) -> None:
    batches = Batches(data, data)  # whose evaluation is not over when the explorer is closed
    explorer = sw.explore(model, batches)
    shown = explorer._shown = Shown()
    explorer.sparsity = 0.25
    explorer.close()
    batches.let_on.set()
    assert "25" in shown.texts[-1] == shown.alts[-1]


@pytest.mark.usefixtures("shell")
def test_what_stands_above_the_picture_never_grows_stale(ex: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []

    def display(data: dict[str, Any], **_options: object) -> Shown:
        shown.append(data)
        return Shown()

    monkeypatch.setattr(base_widget_and_snapshot, "display", display)
    ex.recipe = sw.Recipe(sparsity=0.5)
    ex._ipython_display_()
    widget, picture = shown
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert widget["text/plain"] == "Explorer of DigitNet; the picture below is its last state"
    assert "50" in picture["text/plain"]


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_the_button_keeps_the_compressed_model_in_a_variable(ex: Explorer, shell: InteractiveShell) -> None:
    ex.recipe = sw.Recipe(sparsity=0.5, bits=4)
    ex._on_command(ex, {"do": "compress", "name": "small"}, [])
    settled(ex)
    assert ex._status["state"] == "done"
    assert shell.user_ns["small"].nbytes == ex.estimate.nbytes


@pytest.mark.parametrize("name", ["", "2small", "lambda", "a b", None, "taken", "print"])
def test_a_name_that_is_none_or_taken_is_refused(name: object, ex: Explorer, shell: InteractiveShell) -> None:
    shell.user_ns["taken"] = [1]
    with pytest.raises(
        sw.errors.ShrinkError, match=r"is not a name for a variable|already holds a list|is Python's own"
    ):
        keep_and_save.keep_in_notebook(name, ex.compress())
    assert shell.user_ns["taken"] == [1]


@pytest.mark.parametrize("entropy", [False, True])
def test_the_button_saves_the_file_the_screen_promised(ex: Explorer, tmp_path: Path, entropy: bool) -> None:
    ex.recipe = sw.Recipe(sparsity=0.7, bits=3)
    path = tmp_path / "small.safetensors"
    for _ in range(2):  # the second time over the first file
        ex._on_command(ex, {"do": "save", "path": str(path), "entropy": entropy}, [])
        settled(ex)
        assert ex._status["state"] == "done"
    assert path.stat().st_size == (ex.compress().nbytes_entropy_coded if entropy else ex.estimate.nbytes)


def test_a_file_that_is_something_else_is_not_overwritten(ex: Explorer, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    for path, sentence in (
        (str(thesis), "choose another name"),
        ("", "no file name"),
        (str(tmp_path), "choose another"),
    ):
        ex._on_command(ex, {"do": "save", "path": path}, [])
        settled(ex)
        assert ex._status["state"] == "failed"
        assert sentence in ex._status["text"]
    assert thesis.read_text() == "years of work"


def test_evaluating_again_asks_the_model_again(ex: Explorer) -> None:
    settled(ex)
    before = ex.score
    ex._on_command(ex, {"do": "evaluate"}, [])
    settled(ex)
    assert ex.score is not before
    assert ex.score == before


def test_memory_is_that_of_the_weights_as_they_run_and_of_the_largest_moment(ex: Explorer, model: nn.Module) -> None:
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    settled(ex)
    measured = sw.summary(model, sw.demo.data()[0][:1])
    assert ex._memory == {"weights": weights, "activations": measured.peak_activation}
    ex.recipe = sw.Recipe(sparsity=0.9, bits=2)
    assert settled(ex)._memory["weights"] == weights  # a small file is unpacked before it runs


def test_memory_is_unknown_without_something_to_run_on(model: nn.Module) -> None:
    explorer = settled(sw.explore(model))
    assert explorer._memory["weights"] == sw.summary(model).nbytes
    assert explorer._memory["activations"] is None
    explorer.close()
