"""`recover`: the same file as `compress`, nearer to what the dense network computes, from unlabelled examples."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.sketch import counted
from shrinkwidget.compression.encode_layers_and_packed_model import decode, quantize, select_layers
from shrinkwidget.evaluation.sketch_and_calibration_data import CalibrationRun
from shrinkwidget.recovery import recover as recover_module
from shrinkwidget.recovery.error_compensation import SingularMomentsError, compensate
from shrinkwidget.recovery.input_moments import collecting

TRAIN = sw.demo.data("train")
TEST = sw.demo.data("test")


class Small(nn.Module):
    """Layers of every kind whose inputs are rows: grouped, dilated, padded by reflection, one-dimensional, shared."""

    def __init__(self, shared: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 8, 3, padding=1, padding_mode="reflect")
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, stride=2, padding="valid")
        self.dilated = nn.Conv2d(8, 6, 2, dilation=2, padding="same")
        self.line = nn.Conv1d(6, 5, 3, padding=1)
        self.first, self.again = nn.Linear(5, 5), nn.Linear(5, 5)
        if shared:
            self.again.weight = self.first.weight
        self.embedding = nn.Embedding(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return five numbers an image."""
        x = self.dilated(self.grouped(torch.relu(self.conv(x))).relu()).flatten(2)
        x = self.line(x).mean(2) + self.embedding(torch.zeros(len(x), dtype=torch.long))
        y: Tensor = self.again(torch.relu(self.first(x)))
        return y


@pytest.fixture(scope="module")
def recovered() -> sw.CompressedModel:
    """The embedded network at 90 % and 4 bits, its norms as they were."""
    return sw.recover(sw.demo.model(), TRAIN, sparsity=0.9, bits=4, methods="error_compensation", progress=False)


def inputs(n: int = 64) -> Tensor:
    return torch.randn(n, 2, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["conv", "grouped", "dilated", "line", "first"])
def test_the_rows_of_a_layer_are_what_its_weights_multiply(name: str) -> None:
    network, x = Small().eval(), inputs(6)
    layer = network.get_submodule(name)
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda _m, given, out: seen.append((given[0], out)))
    with torch.no_grad(), collecting({name: [layer]}, batches=1) as found:
        network(x)
    moments, (_, out) = found[name], seen[0]
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    channels = out.movedim(1, -1).reshape(-1, out.shape[1]) - bias
    assert moments.n == len(channels)
    rows = weight.reshape(len(moments.mean), -1, moments.mean.shape[1])
    torch.testing.assert_close((rows @ moments.mean[..., None]).view(-1), channels.mean(0))
    assert moments.second is not None
    power = torch.einsum("gri,gij,grj->gr", rows, moments.second, rows).view(-1)
    torch.testing.assert_close(power, channels.square().sum(0))


def test_of_many_inputs_some_are_counted_spread_over_images_and_pixels() -> None:
    layer = nn.Conv2d(1, 1, 1)
    x = torch.arange(200.0)[:, None, None, None].expand(-1, 1, 40, 40)
    with torch.no_grad(), collecting({"one": [layer]}, batches=1) as found:
        layer(x)
    assert 16_000 < found["one"].n < 17_000
    assert float(found["one"].mean) == pytest.approx(99.5, abs=0.1)


@pytest.mark.parametrize(
    "recipe",
    [
        sw.Recipe(bits=3),
        sw.Recipe(bits=2, granularity=32),
        sw.Recipe(bits=4, symmetric=False, granularity="tensor"),
        sw.Recipe(bits=1),
        sw.Recipe(sparsity=0.7, bits=3),
        sw.Recipe(sparsity=0.6),
        sw.Recipe(sparsity=0.6, bits=16),
        sw.Recipe(structure="2:4", bits=4),
        sw.Recipe(bits=3, quantizer="kmeans"),
        sw.Recipe(sparsity=0.5, bits=4, quantizer="nf4", granularity=64),
    ],
    ids=repr,
)
def test_a_layer_keeps_its_mask_and_grid_and_computes_more_of_what_it_did(recipe: sw.Recipe) -> None:
    model = sw.demo.model()
    weights = open_model(model)
    layer = next(s for s in select_layers(weights, recipe, counted(weights)) if s.entry.name == "stage2.0.conv1.weight")
    with torch.no_grad(), collecting({"x": [model.get_submodule("stage2.0.conv1")]}, batches=1) as found:
        model(TRAIN[0][:256])
    second = found["x"].second
    assert second is not None
    chosen = layer.weights()
    ordinary = quantize(layer.entry, chosen.keep, layer.plan)
    found_codes = compensate(chosen, second, 0.01)
    dense = layer.entry.rows()

    def error(codes: object) -> float:
        off = layer.entry.layout.rows(decode(codes)) - dense  # type: ignore[arg-type]
        return float(torch.einsum("ri,ij,rj->", off, second[0], off))

    assert error(found_codes) < 0.8 * error(ordinary)
    assert found_codes.kept == ordinary.kept
    if ordinary.keep is not None and found_codes.keep is not None:
        assert torch.equal(found_codes.keep, ordinary.keep)
    assert found_codes.codes.dtype == ordinary.codes.dtype
    if recipe.bits <= 8:
        blocks = found_codes.groups.blocks(layer.entry.layout.rows(decode(found_codes)).view(-1))
        assert all(len(block.unique()) <= 2**recipe.bits + 1 for block in blocks)


def test_pruned_rows_are_a_least_squares_fit_on_their_own_mask() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 5))
    x = torch.randn(200, 12) @ torch.randn(12, 12)
    small = sw.recover(model, x, sparsity=0.5, methods="error_compensation", progress=False)
    dense, found = model.state_dict()["0.weight"], small.state_dict()["0.weight"]
    h = (x.T @ x).double()
    h += 0.01 * h.diagonal().mean() * torch.eye(12)
    for before, after in zip(dense.double(), found.double(), strict=True):
        on = after != 0
        wanted = torch.linalg.solve(h[on][:, on], h[on] @ before)
        torch.testing.assert_close(after[on], wanted, rtol=1e-3, atol=1e-4)


def test_a_network_is_recovered_without_a_label_a_byte_or_a_change_to_the_one_given() -> None:
    model = sw.demo.model()
    before = copy.deepcopy(model.state_dict())
    recipe = sw.Recipe(sparsity=0.9, bits=4)
    plain = sw.compress(model, recipe)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    small = sw.recover(model, TRAIN[0], recipe, progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert small.recipe == recipe
    assert small.nbytes == plain.nbytes
    assert {n: x.kept for n, x in small.encoded.items()} == {n: x.kept for n, x in plain.encoded.items()}
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert sw.evaluate(plain, TEST) < 0.6
    assert sw.evaluate(small, TEST) > 0.985
    assert "error compensation, batch norm recalibrated" in small.provenance
    assert small.notes == small.warnings == ()


def test_codes_alone_win_back_most_and_the_file_holds_them(recovered: sw.CompressedModel, tmp_path: Path) -> None:
    model, small = sw.demo.model(), recovered
    assert sw.evaluate(small, TEST) > 0.95
    state = small.state_dict()
    for name, value in model.state_dict().items():  # all that is not compressed is as it was
        if name not in small.encoded:
            assert torch.equal(state[name], value)
    path = tmp_path / "small.safetensors"
    assert small.save(path) == small.nbytes
    loaded = sw.load(path, into=sw.demo.model())
    assert loaded.model is not None
    assert small.model is not None
    with torch.no_grad():
        assert torch.equal(loaded.model.eval()(TEST[0][:8]), small.model.eval()(TEST[0][:8]))
    assert small.estimate is not None
    off = sum(
        float((state[n].double() - w.double()).square().sum())
        for n, w in model.state_dict().items()
        if n in small.encoded
    )
    signal = sum(float(model.state_dict()[n].double().square().sum()) for n in small.encoded)
    assert small.estimate.sqnr == pytest.approx(10 * torch.log10(torch.tensor(signal / off)).item(), abs=0.01)


def test_biases_make_good_for_what_means_lost_where_there_are_no_norms() -> None:
    network, x = Small(shared=False).eval(), inputs()
    plain = sw.compress(network, bits=2)
    corrected = sw.recover(network, x, bits=2, methods="bias_correction", progress=False)
    both = sw.recover(network, x, bits=2, progress=False)
    assert both.provenance.endswith("error compensation, bias correction")
    with torch.no_grad():
        dense = network(x)

        def off(small: sw.CompressedModel) -> tuple[float, float]:
            assert small.model is not None
            y = small.model.eval()(x)
            return float((y.mean(0) - dense.mean(0)).abs().max()), float((y - dense).square().mean())

        assert off(corrected)[0] < 0.2 * off(plain)[0]
        assert off(both)[1] < 0.5 * off(plain)[1]
    assert [note[:43] for note in both.notes] == ["embedding rounded without error compensation"[:43]]
    assert "Embedding is no linear layer" in both.notes[0]


def test_a_language_model_keeps_its_perplexity() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=29, n_positions=24, n_embd=32, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    # text of a kind: nine of ten tokens follow from the one before
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 29, (96, 24), generator=chance)
    follows = torch.rand(tokens.shape, generator=chance) < 0.9
    for place in range(1, 24):
        tokens[:, place] = torch.where(follows[:, place], tokens[:, place - 1] * 5 % 29, tokens[:, place])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(input_ids=tokens[:64], labels=tokens[:64]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    recipe = sw.Recipe(bits=2, layers={"*wte*": sw.Keep, "*wpe*": sw.Keep})
    train = [{"input_ids": part} for part in tokens[:64].split(16)]
    small = sw.recover(model, train, recipe, progress=False)

    def loss_of(network: nn.Module | None) -> float:
        assert network is not None
        with torch.no_grad():
            return float(network(input_ids=tokens[64:], labels=tokens[64:]).loss)

    dense, plain, recovered = loss_of(model), loss_of(sw.compress(model, recipe).model), loss_of(small.model)
    assert plain > dense
    assert recovered - dense < 0.5 * (plain - dense)
    assert small.notes == ()


def test_layers_without_usable_inputs_are_rounded_and_named() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.dead = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.dead(self.used(x) * 0)
            return y

    model = Lazy()
    small = sw.recover(model, torch.randn(40, 6), bits=2, progress=False)
    assert [note.split(" rounded")[0] for note in small.notes] == ["unused", "dead"]
    assert "the data never reached it" in small.notes[0]
    assert "cannot be inverted" in small.notes[1]
    plain = sw.compress(model, bits=2)
    for name in ("unused.weight", "dead.weight"):
        assert torch.equal(small.state_dict()[name], plain.state_dict()[name])


def test_layers_that_hold_their_weights_otherwise_are_named_with_the_reason() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.rnn(x)[0]
            z: Tensor = self.head(self.attention(y, y, y)[0].mean(1))
            return z

    small = sw.recover(Sequence().eval(), torch.randn(40, 5, 6), bits=3, progress=False)
    assert not [note for note in small.notes if "never reached" in note]
    assert [note.partition("LSTM is no linear layer")[1] != "" for note in small.notes] == [True, False]
    assert "attention.in_proj_weight, attention.out_proj rounded" in small.notes[1]


def test_moments_that_cannot_be_inverted_are_damped_more_before_they_are_given_up() -> None:
    one = torch.ones(1, 4, 4)  # every input the same: rank 1
    layer = next(
        iter(select_layers(open_model(nn.Linear(4, 3)), sw.Recipe(bits=2), counted(open_model(nn.Linear(4, 3)))))
    )
    assert compensate(layer.weights(), one, 1e-12).kept == 12
    with pytest.raises(SingularMomentsError):
        compensate(layer.weights(), torch.zeros(1, 4, 4), 0.01)


def test_a_run_in_the_background_tells_its_layers_and_can_be_stopped() -> None:
    model = sw.demo.model()
    run = sw.recover(model, TRAIN, sparsity=0.8, bits=4, background=True)
    seen: list[str] = []
    run.observe(lambda r: seen.append("" if r.progress is None else r.progress.place))
    assert run.wait(120)
    assert run.result.provenance.startswith("recovered on 512 training examples, no retraining: ")
    assert "error compensation" in seen
    stopped = sw.recover(model, TRAIN, sparsity=0.8, bits=4, background=True)
    stopped.stop()
    assert stopped.wait(120)
    if stopped.state == "stopped":
        assert stopped.result.provenance == "no retraining"
        assert stopped.result.nbytes == run.result.nbytes


def test_what_cannot_be_recovered_is_told_in_a_sentence() -> None:
    model = sw.demo.model()
    with pytest.raises(sw.errors.ModelError, match="Module it was made of"):
        sw.recover(sw.compress(model, 0.5), TRAIN, 0.5)  # type: ignore[call-overload]
    with pytest.raises(sw.errors.ModelError, match="no batch norm with running statistics"):
        sw.recover(nn.Linear(3, 2), torch.randn(4, 3), 0.5, methods="recalibrate_batchnorm")
    with pytest.raises(sw.errors.TrainingError, match="did you mean 'bias_correction'"):
        sw.recover(model, TRAIN, 0.5, methods="bias_corection")  # type: ignore[arg-type]
    with pytest.raises(sw.errors.TrainingError, match="nothing to do"):
        sw.recover(model, TRAIN, 0.5, methods=[])
    with pytest.raises(sw.errors.TrainingError, match="whole number from 1"):
        sw.recover(model, TRAIN, 0.5, examples=0)
    with pytest.raises(sw.errors.DataError, match="batch 1: it holds NaN"):
        sw.recover(model, TRAIN[0] * torch.nan, 0.5, progress=False)
    with pytest.raises(sw.errors.DataError, match="batch 1: the model cannot run"):
        sw.recover(model, torch.zeros(4, 3), 0.5, progress=False)
    with pytest.raises(sw.errors.ArgumentError, match="has no argument 'round_to'") as refused:
        sw.recover(model, TRAIN, round_to=8)  # type: ignore[call-overload]
    listed = str(refused.value).partition("arguments: ")[2].split(", ")
    assert len(listed) == len(set(listed)) > 20
    with pytest.raises(sw.errors.ArgumentError, match="did you mean 'sparsity'"):
        sw.recover(model, TRAIN, sparsty=0.5)  # type: ignore[call-overload]


def test_an_importance_that_needs_calibration_takes_the_same_examples() -> None:
    model = sw.demo.model()
    small = sw.recover(model, TRAIN, 0.7, importance="wanda", progress=False)
    examples = sw.demo.data("train")
    assert small.recipe.importance.kind == "wanda"
    assert small.nbytes == sw.compress(model, 0.7, importance="wanda", calibration=examples).nbytes


def test_channels_go_first_and_what_is_left_is_recovered() -> None:
    model = sw.demo.model()
    recipe = sw.Recipe(channels=0.25, bits=4)
    plain = sw.compress(model, recipe, example=TRAIN[0][:1])
    small = sw.recover(model, TRAIN, recipe, progress=False)
    assert small.recipe == recipe
    assert small.widths == plain.widths
    assert small.macs == plain.macs
    assert small.nbytes == plain.nbytes
    assert small.original_nbytes == plain.original_nbytes
    assert sw.evaluate(small, TEST) > sw.evaluate(plain, TEST).value + 0.2


class Routed(nn.Module):
    """Runs its layers in an order of each batch's own, one of them in some batches only, and one twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.left, self.right, self.again = (nn.Linear(6, 6) for _ in range(4))
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three numbers an example."""
        x = self.norm(self.first(x)).relu()
        x = self.right(self.left(x).relu() if float(x.sum()) > ROUTED_ABOVE else x).relu()
        y: Tensor = self.head(self.again(self.again(x).relu()))
        return y


ROUTED_ABOVE = 95.0


@pytest.mark.parametrize(
    "model", [sw.demo.model(), Small(), Small(shared=False), Routed()], ids=lambda m: type(m).__name__
)
def test_one_pass_that_waits_at_each_layer_gives_the_bits_of_a_pass_for_each(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"DigitNet": list(TRAIN[0][:96].split(24)), "Small": list(inputs(48).split(16))}
    batches = data.get(
        type(model).__name__, list(torch.randn(120, 6, generator=torch.Generator().manual_seed(2)).split(40))
    )
    runs, ran = [], CalibrationRun._run

    def count(self: CalibrationRun, number: int, batch: object) -> None:
        runs.append(number)
        ran(self, number, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(CalibrationRun, "_run", count)
    threads = threading.active_count()
    one = sw.recover(model, batches, sparsity=0.4, bits=3, progress=False)
    assert threading.active_count() == threads
    few = len(runs)
    monkeypatch.setattr(recover_module, "_MOST_HELD", 0)
    many = sw.recover(model, batches, sparsity=0.4, bits=3, progress=False)
    assert few < len(runs) - few
    assert one.provenance == many.provenance
    assert all(torch.equal(x, many.state_dict()[name]) for name, x in one.state_dict().items())


def test_a_batch_that_fails_in_the_middle_is_named_and_leaves_no_thread() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            try:
                if float(x[0, 0]) == 7 and len(x) > 1:
                    raise OSError("the disk is gone")
                z: Tensor = self.second(y)
            except ValueError:
                return y
            return z

    bad = torch.zeros(3, 4)
    bad[0, 0] = 7
    threads = threading.active_count()
    with pytest.raises(sw.errors.DataError, match=r"batch \d: .*the disk is gone"):
        sw.recover(Fails(), [torch.randn(3, 4), bad, torch.randn(3, 4)], bits=3, progress=False)
    assert threading.active_count() == threads


def test_stopping_between_layers_leaves_no_thread() -> None:
    threads = threading.active_count()
    seen: list[str] = []

    def stop(_run: object) -> None:
        if running.progress is not None and running.progress.phase == "compensate":
            seen.append(running.progress.phase)
            running.stop()

    running = sw.recover(sw.demo.model(), TRAIN, bits=3, background=True)
    running.observe(stop)
    assert running.wait(120)
    assert running.state == "stopped"
    assert len(seen) >= 1
    assert running.result.provenance == "no retraining"
    assert not [t for t in threading.enumerate() if t.name == "shrinkwidget forward"]
    assert threading.active_count() <= threads + 1
