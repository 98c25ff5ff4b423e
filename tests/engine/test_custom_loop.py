"""A compressed model stays compressed in training loops that are not ours, and nothing of ours stays behind in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.optim.swa_utils import AveragedModel

import shrinkwidget as sw
from shrinkwidget.compressed_model import CompressedModel

from .packed_file_helpers import same
from .training_helpers import TEST, TRAIN, mlp, points

X, Y = points(192)
Optimizers = Callable[[nn.Module], torch.optim.Optimizer]


def compressed_mlp(**fields: Any) -> CompressedModel:
    """Return a network for points that has learnt them, compressed."""
    dense = mlp()
    train(dense, torch.optim.SGD(dense.parameters(), 0.1, momentum=0.9), 40)
    return sw.compress(dense, sw.Recipe(**{"sparsity": 0.7} | fields))


def module(small: CompressedModel) -> nn.Module:
    assert small.model is not None
    return small.model


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(steps):
        places = torch.randperm(len(X), generator=torch.Generator().manual_seed(step))[:48]
        yield X[places], Y[places]


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 12,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Train as anybody's loop does."""
    for x, y in batches(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        after()


def pruned(network: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Return where the weights of layers are zero."""
    return {p: p.detach() == 0 for p in network.parameters() if p.ndim > 1}


def accuracy(network: nn.Module) -> float:
    network.eval()
    with torch.no_grad():
        found = float((network(X).argmax(1) == Y).float().mean())
    network.train()
    return found


def hooks_left(network: nn.Module) -> bool:
    own = [p._post_accumulate_grad_hooks or p._backward_hooks for p in network.parameters()]
    return bool(_global_optimizer_pre_hooks or _global_optimizer_post_hooks or any(own))


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups as papers have them: no decay for biases and norms."""
    wide = [p for p in network.parameters() if p.ndim > 1]
    return [{"params": wide}, {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0}]


OPTIMIZERS: dict[str, Optimizers] = {
    "sgd, foreach": lambda m: torch.optim.SGD(
        m.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=True
    ),
    "adamw, fused, in groups": lambda m: torch.optim.AdamW(groups(m), 0.01, weight_decay=0.1, fused=True),
    "adam, one by one": lambda m: torch.optim.Adam(m.parameters(), 0.01, amsgrad=True, foreach=False),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.005, momentum=0.9, weight_decay=0.01),
    "adafactor": lambda m: torch.optim.Adafactor(m.parameters(), 0.05),
    "rprop": lambda m: torch.optim.Rprop(m.parameters(), 0.001),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bits", [32, 3])
def test_every_zero_is_still_zero_after_every_step_of_every_optimizer(name: str, bits: int) -> None:
    small = compressed_mlp(bits=bits)
    network, zeros = module(small), pruned(module(small))
    masks = [item.mask for item in small.encoded.values()]
    optimizer = OPTIMIZERS[name](network)

    def check() -> None:
        for (parameter, zero), mask in zip(zeros.items(), masks, strict=True):
            assert mask is not None
            assert not parameter.detach()[~mask].any()
            remembered = [x for x in optimizer.state[parameter].values() if x.shape == zero.shape]
            assert not any(bool(x[~mask].any()) for x in remembered)
            assert remembered or name == "adafactor"

    with sw.constrain(small) as training:
        train(network, optimizer, after=check)
    result = training.compressed()
    assert training.steps == 12
    assert result.nbytes == small.nbytes
    assert accuracy(module(result)) > 0.8
    assert not hooks_left(network)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), module(result).parameters(), strict=True))


@pytest.mark.parametrize("bits", [32, 4])
def test_a_real_network_learns_what_pruning_cost_it_and_its_file_loads_the_same(tmp_path: Path, bits: int) -> None:
    dense = sw.demo.model()
    untouched = weights(dense)
    small = sw.compress(dense, sw.Recipe(sparsity=0.9, bits=bits))
    network = module(small)
    zeros = sum(int(zero.sum()) for zero in pruned(network).values())
    before = sw.evaluate(network, TEST)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    with sw.constrain(small) as training:
        network.train()
        for _ in range(4):
            for x, y in zip(TRAIN[0].split(64), TRAIN[1].split(64), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        network.eval()
        inside = sw.evaluate(network, TEST)
    result = training.compressed()
    score = sw.evaluate(result, TEST)
    assert score.value == inside.value > before.value + 0.3
    assert sum(int(zero.sum()) for zero in pruned(module(result)).values()) >= zeros
    aware = ", quantization-aware" if bits < 32 else ""
    assert result.provenance == score.provenance == f"trained 20 steps in a custom loop{aware}"
    assert result.save(tmp_path / "small.safetensors") == result.nbytes == small.nbytes
    again = sw.load(tmp_path / "small.safetensors", into=sw.demo.model())
    assert same(again.state_dict(), result.state_dict())
    assert same(weights(dense), untouched)


def test_an_optimizer_that_remembers_pruned_weights_forgets_them() -> None:
    small = compressed_mlp()
    network = module(small)
    optimizer = torch.optim.SGD(network.parameters(), 0.0, momentum=0.9)
    train(network, optimizer)  # at rate 0 nothing moves, but the momentum of every weight is there
    with sw.constrain(small) as training:
        optimizer.param_groups[0]["lr"] = 0.05
        train(network, optimizer, 1)
        for parameter, zero in pruned(network).items():
            assert zero.any()
            assert not optimizer.state[parameter]["momentum_buffer"][zero].any()
    assert training.compressed().nbytes == small.nbytes


def test_clipping_counts_the_gradients_of_what_is_there_only() -> None:
    small = compressed_mlp()
    network, zeros = module(small), pruned(module(small))
    x, y = X[:48], Y[:48]
    torch.manual_seed(0)
    F.cross_entropy(network(x), y).backward()
    everything = {p: p.grad.clone() for p in network.parameters() if p.grad is not None}
    network.zero_grad()
    with sw.constrain(small):
        torch.manual_seed(0)
        F.cross_entropy(network(x), y).backward()
        counted = nn.utils.clip_grad_norm_(network.parameters(), 1e9)
    alive = [g.masked_fill(zeros.get(p, torch.tensor(False)), 0) for p, g in everything.items()]
    norm = torch.stack([g.norm() for g in alive]).norm()
    assert torch.allclose(counted, norm)
    assert counted < torch.stack([g.norm() for g in everything.values()]).norm()


@pytest.mark.parametrize("fields", [{"bits": 2}, {"bits": 3, "quantizer": "kmeans"}, {"bits": 16}, {"bits": 1}])
def test_between_steps_the_module_is_what_its_file_will_be(fields: dict[str, Any]) -> None:
    small = compressed_mlp(**fields)
    with sw.constrain(small) as training:
        train(training.model, torch.optim.Adam(training.model.parameters(), 0.01), 5)
        inside = training.compressed()
        assert same(weights(training.model), inside.state_dict())
        assert not same(inside.state_dict(), small.state_dict())
        train(training.model, torch.optim.Adam(training.model.parameters(), 0.01), 5)
    assert same(weights(training.model), training.compressed().state_dict())
    assert not same(inside.state_dict(), training.compressed().state_dict())


def test_small_steps_add_up_below_the_grid() -> None:
    """Without weights that are trained behind those of the grid no step of this rate would ever reach a next level."""
    small = compressed_mlp(bits=2, sparsity=0.0)
    with sw.constrain(small) as training:
        train(training.model, torch.optim.SGD(training.model.parameters(), 0.02), 1)
        one = weights(training.model)["0.weight"]
        train(training.model, torch.optim.SGD(training.model.parameters(), 0.02), 200)
    levels = {len(row.unique()) for row in weights(training.model)["0.weight"]}
    assert max(levels) <= 4
    assert ((one - weights(training.model)["0.weight"]).abs() > 0.1).any()


def test_closures_run_with_the_weights_of_the_file() -> None:
    small = compressed_mlp(bits=2)
    network = module(small)
    optimizer = torch.optim.LBFGS(network.parameters(), lr=0.1, max_iter=4)
    seen: list[bool] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        levels = max(len(row.unique()) for row in network.get_parameter("0.weight").detach())
        seen.append(levels <= 5)  # four, and the zero of pruned weights
        loss = F.cross_entropy(network(X), Y)
        loss.backward()
        return loss

    with sw.constrain(small) as training:
        for _ in range(3):
            optimizer.step(closure)
    assert len(seen) > 3
    assert all(seen)
    assert training.compressed().nbytes == small.nbytes


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="aot_eager")])
def test_wrapped_and_compiled_models_hold(wrap: Callable[[nn.Module], Any]) -> None:
    small = compressed_mlp(bits=4)
    network = module(small)
    wrapped = wrap(network)
    zeros = pruned(network)
    with sw.constrain(small) as training:
        train(wrapped, torch.optim.AdamW(wrapped.parameters(), 0.01), 6)
    assert not any(bool(p.detach()[zero].any()) for p, zero in zeros.items())
    assert type(training.compressed().model) is type(network)
    assert training.compressed().nbytes == small.nbytes


def test_mixed_precision_with_a_scaler_and_infinite_gradients_holds() -> None:
    small = compressed_mlp(bits=4)
    network, zeros = module(small), pruned(module(small))
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)  # the first steps overflow
    with sw.constrain(small) as training:
        for x, y in batches(140):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert not any(bool(p.detach()[zero].any()) for p, zero in zeros.items())
    assert 10 < training.steps < 140
    assert accuracy(module(training.compressed())) > 0.8


def test_a_model_that_moves_and_layers_that_thaw_meanwhile_hold() -> None:
    small = compressed_mlp(bits=4)
    network = module(small)
    network.get_submodule("0").requires_grad_(False)
    zeros = list(pruned(network).values())
    with sw.constrain(small) as training:
        network.double()
        inputs, labels = X.double(), Y
        network.requires_grad_(True)
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        wide = [p.detach() for p in network.parameters() if p.ndim > 1]
        assert not any(bool(p[zero].any()) for p, zero in zip(wide, zeros, strict=True))
        gradients = [p.grad for p in network.parameters() if p.ndim > 1]
        assert not any(bool(g[zero].any()) for g, zero in zip(gradients, zeros, strict=True) if g is not None)
    result = training.compressed()
    assert result.nbytes == small.nbytes
    assert all(p.dtype == torch.float32 for p in module(result).parameters())


def test_weights_that_are_loaded_meanwhile_are_trained_on() -> None:
    small = compressed_mlp(bits=4)
    with sw.constrain(small) as training:
        optimizer = torch.optim.Adam(training.model.parameters(), 0.01)
        train(training.model, optimizer, 4)
        best = weights(training.model)
        train(training.model, optimizer, 8)
        training.model.load_state_dict(best)
    assert same(training.compressed().state_dict(), best) or training.compressed().nbytes == small.nbytes
    assert torch.allclose(weights(training.model)["0.weight"], best["0.weight"], atol=1e-3)


def test_an_average_swapped_in_for_a_test_costs_nothing() -> None:
    def trained(swap: bool) -> CompressedModel:
        small = compressed_mlp(bits=3)
        with sw.constrain(small) as training:
            average = AveragedModel(training.model)
            optimizer = torch.optim.SGD(training.model.parameters(), 0.02)
            for _ in range(4):
                train(training.model, optimizer, 3)
                average.update_parameters(training.model)
                if swap:
                    now = copy.deepcopy(training.model.state_dict())
                    training.model.load_state_dict(average.module.state_dict())
                    training.model.load_state_dict(now)
        return training.compressed()

    torch.manual_seed(0)
    plain = trained(swap=False)
    torch.manual_seed(0)
    assert same(trained(swap=True).state_dict(), plain.state_dict())


def test_ctrl_c_leaves_no_hook_and_the_result_so_far() -> None:
    small = compressed_mlp(bits=4)
    training = sw.constrain(small)
    count = iter(range(10))

    def interrupt() -> None:
        if next(count) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), training:
        train(training.model, torch.optim.Adam(training.model.parameters(), 0.01), after=interrupt)
    assert not hooks_left(training.model)
    result = training.compressed()
    assert result.provenance.startswith("trained 5 steps in a custom loop")
    assert same(weights(training.model), result.state_dict())
    with training:  # and on
        train(training.model, torch.optim.Adam(training.model.parameters(), 0.01), 3)
    assert training.steps == 8


def test_outside_the_context_the_module_is_anybodys_again() -> None:
    small = compressed_mlp()
    with sw.constrain(small) as training:
        train(training.model, torch.optim.SGD(training.model.parameters(), 0.05), 3)
    result, zeros = training.compressed(), pruned(training.model)
    train(training.model, torch.optim.SGD(training.model.parameters(), 0.05), 3)
    assert all(bool(p.detach()[zero].any()) for p, zero in zeros.items())
    assert same(training.compressed().state_dict(), result.state_dict())


def test_other_models_trained_meanwhile_are_left_alone() -> None:
    small, other = compressed_mlp(), mlp(1)
    alone = copy.deepcopy(other)
    torch.manual_seed(0)
    train(alone, torch.optim.Adam(alone.parameters(), 0.01), 3)
    with sw.constrain(small) as training:
        torch.manual_seed(0)
        train(other, torch.optim.Adam(other.parameters(), 0.01), 3)
    assert training.steps == 0
    assert same(weights(other), weights(alone))


def test_loops_that_cannot_be_held_are_told_so_in_a_sentence() -> None:
    small = compressed_mlp()
    with pytest.raises(
        sw.errors.ModelError, match="cannot constrain a Sequential: give what compress, load or retrain"
    ):
        sw.constrain(mlp())  # type: ignore[arg-type]
    with pytest.raises(sw.errors.ModelError, match=r"only weights: load the file with load\(path, into=model\)"):
        sw.constrain(sw.compress(mlp().state_dict(), sw.Recipe(sparsity=0.5)))
    with sw.constrain(small), pytest.raises(sw.errors.TrainingError, match="being trained already"):
        sw.constrain(small).__enter__()
    with sw.constrain(small) as training:
        other = copy.deepcopy(training.model)
        train(other, torch.optim.SGD(other.parameters(), 0.05), 2)
    with pytest.raises(
        sw.errors.TrainingError, match=r"nothing has trained this Sequential: train .*, not a copy of it"
    ):
        training.compressed()
    with sw.constrain(small) as training:
        module(small).get_submodule("0").weight = nn.Parameter(torch.ones(16, 8))
        train(training.model, torch.optim.SGD(training.model.parameters(), 0.05), 2)
    with pytest.raises(sw.errors.TrainingError, match=r"the parameter '0\.weight' of this Sequential was replaced"):
        training.compressed()
    assert not hooks_left(module(small))


def test_weights_that_are_no_longer_finite_are_told_and_leave_nothing_behind() -> None:
    for bits in (32, 4):
        small = compressed_mlp(bits=bits)
        training = sw.constrain(small)
        with training:
            train(training.model, torch.optim.SGD(training.model.parameters(), float("nan")), 2)
        assert not hooks_left(module(small))
        with pytest.raises(sw.errors.ModelError, match="NaN"):
            training.compressed()


def test_hugging_faces_trainer_holds_every_zero(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from shrinkwidget.integrations.transformers import ConstraintCallback

    torch.manual_seed(0)
    sizes: Any = dict(
        vocab_size=50,
        max_position_embeddings=16,
        num_labels=2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    bert = BertForSequenceClassification(BertConfig(**sizes))
    words = torch.randint(2, 50, (256, 8))
    labels = (words == 7).any(1) | (words[:, 0] > 25)
    data = [{"input_ids": w, "labels": label} for w, label in zip(words, labels.long(), strict=True)]
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=4, per_device_train_batch_size=32, learning_rate=3e-3, weight_decay=0.1,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no", bf16=True,
    )  # fmt: skip

    def trainer(small: CompressedModel, **callbacks: Any) -> Trainer:
        return Trainer(module(small), arguments, train_dataset=data, **callbacks)

    def zeros(network: nn.Module) -> int:
        return sum(int(zero.sum()) for zero in pruned(network).values())

    for bits in (32, 4):
        small = sw.compress(bert, sw.Recipe(sparsity=0.8, bits=bits))
        before = zeros(module(small))
        callback = ConstraintCallback(small)
        done = trainer(small, callbacks=[callback]).train()
        result = callback.compressed()
        assert done.training_loss < 0.69
        assert zeros(module(result)) >= before
        assert zeros(module(small)) >= before
        assert result.nbytes == small.nbytes
        assert "32 steps in a custom loop" in result.provenance
        assert same(weights(module(small)), result.state_dict())
        assert not hooks_left(module(small))

    small = sw.compress(bert, sw.Recipe(sparsity=0.8, bits=4))
    with sw.constrain(small) as training:
        trainer(small).train()
    assert training.steps == 32
    assert zeros(module(training.compressed())) >= before

    without = sw.compress(bert, sw.Recipe(sparsity=0.8))
    trainer(without).train()
    assert zeros(module(without)) < before / 10  # what silently happens without


def test_a_trainer_that_fails_leaves_no_hook_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from shrinkwidget.integrations.transformers import ConstraintCallback

    class Classifier(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.network(x), labels)}

    class Failing(TrainerCallback):
        def on_step_begin(self, *found: Any, **_: Any) -> None:
            if found[1].global_step == 3:
                raise OSError("the disk is full")

    small = sw.compress(Classifier(mlp()), sw.Recipe(sparsity=0.7, bits=4))
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=6, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    callback = ConstraintCallback(small)
    with pytest.raises(OSError, match="full"):
        Trainer(module(small), arguments, train_dataset=data, callbacks=[callback, Failing()]).train()
    assert not hooks_left(module(small))
    assert callback.compressed().provenance.startswith("trained 3 steps")
    Trainer(module(small), arguments, train_dataset=data, callbacks=[callback]).train()
    assert callback.compressed().provenance.startswith("trained 9 steps")
    assert callback.compressed().nbytes == small.nbytes


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_lightnings_trainer_holds_every_zero(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from shrinkwidget.integrations.lightning import ConstraintCallback

    class Classifier(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self, network: nn.Module, fails: bool = False) -> None:
            super().__init__()
            self.network, self.fails = network, fails

        def training_step(self, batch: Any, number: int) -> Tensor:
            if self.fails and number == 2:
                raise OSError("the disk is full")
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 0.01, weight_decay=0.1)

    def fit(small: CompressedModel, callback: Any, fails: bool = False) -> None:
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 32)
        trainer = lightning.Trainer(
            max_epochs=3, callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Classifier(module(small), fails), loader)

    for bits in (32, 3):
        small = compressed_mlp(bits=bits)
        zeros = pruned(module(small))
        callback = ConstraintCallback(small)
        fit(small, callback)
        assert not any(bool(p.detach()[zero].any()) for p, zero in zeros.items() if bits == 32)
        assert callback.compressed().nbytes == small.nbytes
        assert "18 steps in a custom loop" in callback.compressed().provenance
        assert accuracy(module(callback.compressed())) > 0.8
        assert not hooks_left(module(small))
    with pytest.raises(OSError, match="full"):
        fit(small, ConstraintCallback(small), fails=True)
    assert not hooks_left(module(small))


def test_a_loop_without_an_optimizer_keeps_its_zeros() -> None:
    small = compressed_mlp()
    zeros = pruned(module(small))
    with sw.constrain(small) as training:
        for x, y in batches(20):
            training.model.zero_grad()
            F.cross_entropy(training.model(x), y).backward()
            with torch.no_grad():
                for parameter in training.model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(0.05 * parameter.grad + 1e-4 * parameter)
    result = training.compressed()
    assert not any(bool(p.detach()[zero].any()) for p, zero in zeros.items())
    assert result.provenance == "trained in a custom loop"
    assert result.nbytes == small.nbytes


def test_optimizers_of_parts_and_inside_others_hold() -> None:
    class Lookahead(torch.optim.Optimizer):
        """An optimizer that steps another one and then moves the weights itself (arXiv 1907.08610)."""

        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups, {})
            self.inner = inner
            self.slow = [p.detach().clone() + 0.1 for group in inner.param_groups for p in group["params"]]

        @torch.no_grad()
        def step(self, _: Any = None) -> None:  # type: ignore[override]
            self.inner.step()
            parameters = [p for group in self.param_groups for p in group["params"]]
            for parameter, slow in zip(parameters, self.slow, strict=True):
                slow += 0.5 * (parameter - slow)
                parameter.copy_(slow)

    small = compressed_mlp(bits=4)
    network, zeros = module(small), pruned(module(small))
    first = torch.optim.AdamW(network.get_submodule("0").parameters(), 0.01)
    second = Lookahead(torch.optim.SGD(network.get_submodule("4").parameters(), 0.02))
    with sw.constrain(small) as training:
        for x, y in batches(10):
            network.zero_grad()
            F.cross_entropy(network(x), y).backward()
            first.step()
            second.step()
            assert not any(bool(p.detach()[zero].any()) for p, zero in zeros.items())
    assert training.steps == 20
    assert accuracy(module(training.compressed())) > 0.8


def test_embeddings_with_sparse_gradients_hold() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.EmbeddingBag(20, 8, sparse=True), nn.Linear(8, 3))
    small = sw.compress(dense, sw.Recipe(sparsity=0.6, bits=4))
    network, zeros = module(small), pruned(module(small))
    with sw.constrain(small) as training:
        sparse = torch.optim.SparseAdam(network.get_submodule("0").parameters(), 0.01)
        plain = torch.optim.SGD(network.get_submodule("1").parameters(), 0.1)
        for step in range(10):
            words = torch.randint(0, 20, (16, 4), generator=torch.Generator().manual_seed(step))
            network.zero_grad()
            F.cross_entropy(network(words), words[:, 0] % 3).backward()
            sparse.step()
            plain.step()
            assert not any(bool(p.detach()[zero].any()) for p, zero in zeros.items())
    assert training.compressed().nbytes == small.nbytes
