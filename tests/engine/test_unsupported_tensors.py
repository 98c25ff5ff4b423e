"""What no packed file can carry is listed with its bytes, and refused by name before anything is made of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shrinkwidget.analysis.model_summary import summary
from shrinkwidget.analysis.sketch import sketch
from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import ModelError
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.retrain_and_training_run import retrain
from shrinkwidget.transfer_learning.transfer import transfer
from shrinkwidget.widgets.explorer_backend import ExplorerSession

DATA = (torch.randn(12, 8), torch.arange(12) % 2)


class WithState(nn.Linear):
    """A layer that adds something of its own to the state dict."""

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"steps": torch.arange(100)}

    def set_extra_state(self, state: object) -> None:
        """Nothing of it is used."""


class Codes(Tensor):
    """A tensor subclass that keeps codes and scales inside, as quantization libraries have them."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls: Any, codes: Tensor, scale: Tensor) -> Codes:
        made: Codes = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)
        made.codes, made.scale = codes, scale
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        plain = [a.codes * a.scale if isinstance(a, Codes) else a for a in args]
        return func(*plain, **(kwargs or {}))


class Packed(nn.Parameter):
    """A parameter of packed codes with its state beside it."""

    quant_state = "nf4"


def dynamic() -> nn.Module:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    model: nn.Module = quantize(nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(8, 2)), {nn.Linear})
    return nn.Sequential(nn.Linear(8, 8), *model.children())


def with_codes() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 2))
    codes = Codes(torch.randint(-8, 8, (64, 8), dtype=torch.int8), torch.tensor(0.1))
    model[0].weight = nn.Parameter(codes, requires_grad=False)
    return model


def with_packed() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    model[0].weight = Packed(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    return model


FOREIGN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dynamic": (dynamic, r"'1' is quantized already \(a Linear of torch\.ao\.nn\.quantized.*a recipe quantizes it"),
    "extra state": (
        lambda: nn.Sequential(WithState(8, 2)),
        r"'0\._extra_state' is what WithState\.get_extra_state adds",
    ),
    "subclass": (with_codes, r"'0\.weight' is a quantized tensor already \(Codes\).*a recipe quantizes it"),
    "packed": (with_packed, r"'0\.weight' is a quantized tensor already \(Packed\)"),
}


@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("build, sentence", FOREIGN.values(), ids=FOREIGN)
def test_it_is_refused_in_one_sentence_by_whatever_is_asked(build: Callable[[], nn.Module], sentence: str) -> None:
    model = build()
    uses: list[Callable[[], object]] = [
        lambda: sketch(model),
        lambda: compress(model, Recipe()),
        lambda: ExplorerSession(model),
        lambda: retrain(model, DATA),
        lambda: transfer(model, DATA),
    ]
    for use in uses:
        with pytest.raises(ModelError, match=sentence):
            use()


@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_packed_weights_are_listed_with_their_bytes() -> None:
    model = dynamic()
    size = summary(model, DATA[0])
    others = {t.name: t.nbytes for t in size.tensors if t.role == "other"}
    assert others["1._packed_params._packed_params"] >= 8 * 8
    assert size.parameters == 72
    assert size.nbytes > 4 * 72 + 64 + 16
    assert "neither in parameters nor in buffers" in repr(size)
    assert size.macs == 12 * (64 + 64 + 16)


def test_tensors_of_other_classes_weigh_what_is_inside() -> None:
    size = summary(with_codes())
    assert size.tensors[0].nbytes == 64 * 8 + 4
    assert size.tensors[0].dtype == "Codes"
    assert size.nbytes == 64 * 8 + 4 + 4 * (64 + 2 * 64 + 2)


def test_state_that_is_empty_is_nothing_to_lose() -> None:
    class Empty(WithState):
        def get_extra_state(self) -> Any:
            return None

    assert compress(nn.Sequential(Empty(8, 2)), Recipe()).nbytes > 0


def test_state_dict_hooks_that_list_a_parameter_twice_add_nothing() -> None:
    model = nn.Linear(8, 2)

    def again(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
        state[f"{prefix}copy"] = state[f"{prefix}weight"]

    model.register_state_dict_post_hook(again)
    assert summary(model).parameters == 18
    assert compress(model, Recipe(bits=4)).model is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ">f4"])
def test_arrays_are_welcome_in_a_state_dict(dtype: Any) -> None:
    w = np.linspace(-1, 1, 40).reshape(5, 8).astype(dtype)
    w.flags.writeable = False
    arrays = {"weight": w, "flipped": w[::-1], "bias": np.arange(5), "empty": np.zeros((0, 3), np.float32)}
    compressed = compress(arrays, Recipe(sparsity=0.5))
    assert summary(arrays).parameters == 85
    kept = compressed.state_dict()["weight"].numpy()
    assert np.array_equal(kept[kept != 0], w[kept != 0].astype(np.float32))
    assert compressed.state_dict()["bias"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [3, "adam", None, [1, 2]])
def test_what_is_no_tensor_in_a_state_dict_is_listed_and_refused_by_name(value: object) -> None:
    state: Any = {"weight": torch.randn(4, 4), "epoch": value}
    assert [t.name for t in summary(state).tensors] == ["weight", "epoch"]
    with pytest.raises(ModelError, match=f"holds 'epoch', of type {type(value).__name__}; expected tensors only"):
        compress(state, Recipe())


def test_a_dtype_no_safetensors_file_holds_is_measured_and_refused() -> None:
    model = nn.Linear(8, 2)
    model.register_buffer("phase", torch.randn(3, dtype=torch.complex128))
    size = summary(model)
    assert size.safetensors is None
    assert size.nbytes == 4 * 18 + 48
    assert "cannot hold" in repr(size)
    with pytest.raises(ModelError, match="'phase' is complex128"):
        compress(model, Recipe())


def test_a_negation_that_is_only_noted_is_carried_out() -> None:
    model = nn.Linear(8, 2)
    model.weight = nn.Parameter(torch.randn(2, 8, dtype=torch.complex64).conj().imag)
    assert model.weight.is_neg()
    assert torch.equal(compress(model, Recipe()).state_dict()["weight"], model.weight)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_module_is_retrained() -> None:
    scripted: Any = torch.jit.script(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))
    small = compress(scripted, Recipe(sparsity=0.5))
    done = retrain(small, DATA).model
    assert done is not None
    assert small.model is not None
    assert torch.equal(done.state_dict()["0.weight"] == 0, small.model.state_dict()["0.weight"] == 0)
    assert not torch.equal(done.state_dict()["0.weight"], small.model.state_dict()["0.weight"])
