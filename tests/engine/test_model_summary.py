"""What a summary says about a model is what its files and its forward pass really cost."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shrinkwidget import demo
from shrinkwidget.analysis.estimate_class_and_packed_file_header import safetensors_bytes
from shrinkwidget.analysis.model_summary import ModelSummary, bytes_text, count_text, summary
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.errors import DataError, FileError, ModelError

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """State dicts with odd names, every dtype, scalars and empty tensors, and one tensor that can be compressed."""
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=12))
    shapes = st.lists(st.integers(0, 12), max_size=3)
    state = {n: torch.zeros(draw(shapes), dtype=draw(st.sampled_from(DTYPES))) for n in names if n != "__metadata__"}
    return state | {"weight": torch.zeros(2, 3)}


@given(state_dicts())
def test_safetensors_bytes_equal_the_file_for_any_state_dict(state: dict[str, Tensor]) -> None:
    assert safetensors_bytes(open_model(state).saved) == len(save(state))


def test_safetensors_bytes_counts_tied_weights_once() -> None:
    embedding, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    once = {"0.weight": embedding.weight.detach()}
    assert safetensors_bytes(open_model(model).saved) == len(save(once))


def test_safetensors_bytes_names_a_tensor_no_file_can_hold() -> None:
    state = {"weight": torch.zeros(2, 2), "spectrum": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(ModelError, match="'spectrum' is complex128"):
        safetensors_bytes(open_model(state).saved)


def tied() -> nn.Module:
    embedding, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    return nn.Sequential(embedding, nn.LSTM(8, 8), First(), head)


class First(nn.Module):
    """Takes the first of several results, as after an LSTM."""

    def forward(self, results: tuple[Tensor, ...]) -> Tensor:
        return results[0]


class Odd(nn.Module):
    """Everything a module may hold: a bare parameter, a buffer that is not saved, integers, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(5, 4))
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool), persistent=False)
        self.table = nn.Parameter(torch.zeros(3, 4, dtype=torch.int8), requires_grad=False)
        self.linear = nn.Linear(4, 4).half()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "demo": demo.model,
    "tied": tied,
    "odd": Odd,
    "attention": lambda: nn.TransformerEncoderLayer(16, 2, 32),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 7, 3), nn.BatchNorm2d(7)),
    "norm": lambda: nn.BatchNorm1d(4),
}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())


# Bytes


@every_model
def test_file_sizes_are_those_of_the_files(build: Callable[[], nn.Module]) -> None:
    model = build()
    size = summary(model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert size.torch_save == len(buffer.getvalue())
    once = {e.name: e.load() for e in open_model(model, only_to_look=True).entries if e.saved}
    assert size.safetensors == len(save(once))


@every_model
def test_every_parameter_and_buffer_is_weighed_once(build: Callable[[], nn.Module]) -> None:
    model, size = build(), summary(build())
    expected = dict(model.named_parameters()) | dict(model.named_buffers())
    assert {t.name: (t.shape, t.nbytes) for t in size.tensors} == {
        name: (tuple(tensor.shape), tensor.nbytes) for name, tensor in expected.items()
    }
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.buffers == sum(b.numel() for b in model.buffers())
    assert size.nbytes == sum(size.dtypes.values()) == sum(layer.nbytes for layer in size.layers)


def test_a_model_its_state_dict_and_its_file_weigh_the_same(tmp_path: Path) -> None:
    model = demo.model()
    save_file(model.state_dict(), tmp_path / "demo.safetensors")
    sizes = [summary(model), summary(model.state_dict()), summary(tmp_path / "demo.safetensors")]
    assert {(s.parameters, s.buffers, s.nbytes, s.depth, s.width, s.safetensors) for s in sizes} == {
        (172_218, 941, model_bytes(model), 14, (10, 64), (tmp_path / "demo.safetensors").stat().st_size)
    }
    assert sizes[2].title == "demo"


def model_bytes(model: nn.Module) -> int:
    return sum(t.nbytes for t in model.state_dict().values())


def test_the_torch_save_of_a_file_is_counted_without_reading_it() -> None:
    buffer = io.BytesIO()
    torch.save(load_file(demo.WEIGHTS), buffer)
    assert summary(demo.WEIGHTS).torch_save == len(buffer.getvalue())


def test_the_real_resnet20() -> None:
    path = Path(__file__).parents[3] / "shared/data/resnet20-cifar10.safetensors"
    if not path.exists():
        pytest.skip("the ResNet-20 weights are not here: ../shared/data/resnet20-cifar10.safetensors")
    size = summary(path)
    assert (size.parameters, size.depth, size.width) == (269_722, 20, (10, 64))


def test_every_tensor_has_a_status_and_a_reason() -> None:
    status = {t.name: (t.status, t.why) for t in summary(Odd()).tensors}
    assert status["positions"] == ("compressible", "")
    assert status["linear.weight"] == ("compressible", "")
    assert status["linear.bias"] == ("uncompressed", "fewer than two dimensions (a bias, a norm, a scalar)")
    assert status["mask"] == ("not saved", "a buffer, not a parameter")
    assert status["table"][0] == "uncompressed"
    assert status["table"][1].startswith("int8: only float16")


# Depth and width


def test_depth_counts_layers_with_a_weight_and_width_their_channels() -> None:
    model = nn.Sequential(
        nn.Embedding(100, 6), nn.Conv1d(6, 12, 3), nn.ConvTranspose1d(12, 5, 3), nn.LSTM(5, 9, 2), nn.LayerNorm(9)
    )
    size = summary(model)
    assert size.depth == 4
    assert [layer.channels for layer in size.layers] == [6, 12, 5, 9, None]
    assert size.width == (5, 12)


def test_a_tied_layer_counts_in_depth_but_weighs_nothing() -> None:
    size = summary(tied())
    head = size.layers[-1]
    assert (head.name, head.kind, head.tied, head.nbytes) == ("3", "Linear", ("0.weight",), 0)
    assert size.depth == 3
    assert size.tensors[0].aliases == ("3.weight",)


# One forward pass


def flops(model: nn.Module, *inputs: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "build, example",
    [
        (demo.model, torch.rand(3, 1, 8, 8)),
        (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 3, 2)), torch.rand(1, 4, 9, 9)),
        (lambda: nn.GRU(5, 6, bidirectional=True), torch.rand(7, 2, 5)),
        (lambda: nn.RNNCell(5, 6), torch.rand(2, 5)),
        (lambda: nn.Linear(3, 4), torch.rand(3)),
    ],
    ids=["demo", "convolutions", "GRU", "cell", "vector"],
)
def test_macs_are_half_of_torchs_flops(build: Callable[[], nn.Module], example: Tensor) -> None:
    size = summary(build(), example)
    assert size.macs == flops(build(), example) // 2 > 0
    assert size.macs == sum(t.macs or 0 for t in size.tensors)


def test_macs_of_the_demo_layer_by_layer() -> None:
    macs = {layer.name: layer.macs for layer in summary(demo.model(), torch.rand(1, 1, 8, 8)).layers}
    assert macs["stem"] == 9 * 1 * 16 * 64
    assert macs["stage2.0.conv1"] == 9 * 16 * 32 * 16
    assert macs["head"] == 640
    assert macs["bn"] == 0


def test_macs_of_recurrent_layers_go_to_the_matrix_that_multiplies() -> None:
    steps, batch = 7, 3
    for model in (nn.LSTM(10, 20, 2), nn.GRU(10, 20, 2)):
        size = summary(model, torch.rand(steps, batch, 10))
        for tensor in size.tensors:
            assert tensor.macs == (steps * batch * tensor.numel if "weight" in tensor.name else 0)


@pytest.mark.parametrize("weights", [True, False])
def test_macs_of_attention_with_and_without_its_fused_kernels(weights: bool) -> None:
    n, t, d = 2, 7, 16

    class Attend(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=weights)[0]

    size = summary(Attend(d, 4, batch_first=True), torch.rand(n, t, d))
    assert {x.name: x.macs for x in size.tensors if x.macs} == {
        "in_proj_weight": n * t * 3 * d * d,
        "out_proj.weight": n * t * d * d,
    }
    assert size.macs == n * t * 4 * d * d + 2 * n * t * t * d


def test_attention_of_activations_is_work_of_the_layer_that_does_it() -> None:
    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    size = summary(nn.Sequential(nn.Linear(8, 8), Attend()), torch.rand(2, 3, 5, 8))
    assert [(layer.kind, layer.macs) for layer in size.layers] == [("Linear", 30 * 64), ("Attend", 2 * 6 * 5 * 5 * 8)]


def test_macs_of_a_weight_that_is_computed_from_parameters() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(40, 30))
    macs = {t.name: t.macs for t in summary(model, torch.rand(2, 40)).tensors}
    assert sum(filter(None, macs.values())) == 2 * 40 * 30
    assert max(macs, key=lambda name: macs[name] or 0) == "weight"


def test_layers_come_in_the_order_they_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.unused, self.first = nn.Linear(4, 2), nn.Linear(9, 9), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))  # type: ignore[no-any-return]

    size = summary(Backwards(), torch.rand(1, 3))
    assert [layer.name for layer in size.layers if layer.output_bytes] == ["first", "last"]
    assert {layer.name for layer in size.layers} == {"first", "last", "unused"}
    assert [layer.name for layer in summary(Backwards()).layers] == ["last", "unused", "first"]


def test_an_example_cut_from_a_data_set_is_counted_alone() -> None:
    model, images = nn.Linear(10, 4), torch.zeros(1000, 10)
    assert summary(model, images[:1]).peak_activation == summary(model, torch.zeros(1, 10)).peak_activation == 56


def test_peak_activation_is_what_is_alive_at_once() -> None:
    model = nn.Sequential(*[nn.Linear(1000, 1000) for _ in range(5)])
    size = summary(model, torch.rand(100, 1000))
    assert size.peak_activation == 3 * 400_000  # the example, the layer's input, its output
    assert [layer.output_bytes for layer in size.layers] == [400_000] * 5


def test_an_in_place_activation_needs_no_memory() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
    in_place = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(inplace=True), nn.Flatten())
    example = torch.rand(1, 1, 34, 34)
    peaks = [summary(model, example).peak_activation for model in (plain, in_place)]
    assert peaks == [example.nbytes + 2 * 8 * 32 * 32 * 4, example.nbytes + 8 * 32 * 32 * 4]


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: {"images": x}, lambda x: x.numpy()])
def test_an_example_is_a_tensor_a_tuple_a_dict_or_an_array(form: Callable[[Tensor], object]) -> None:
    assert summary(demo.model(), form(torch.rand(1, 1, 8, 8))).macs == 1_631_872


def test_measuring_changes_nothing() -> None:
    model = demo.model().train()
    model.stage2.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    summary(model, demo.data()[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_a_failed_forward_pass_leaves_nothing_behind() -> None:
    model = demo.model().train()
    with pytest.raises(DataError, match="the model cannot run input 1×3×8×8 float32: RuntimeError: Given groups=1"):
        summary(model, torch.rand(1, 3, 8, 8))
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


# Bad input


def test_what_cannot_be_measured_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot look at an int"):
        summary(3)  # type: ignore[call-overload]
    with pytest.raises(ModelError, match="meta device"):
        summary(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ModelError, match="an example can only be run on"):
        summary(demo.model().state_dict(), torch.rand(1, 1, 8, 8))
    with pytest.raises(FileError, match="there is no file"):
        summary(tmp_path / "missing.safetensors")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_module_is_watched_as_well() -> None:
    plain, scripted = (summary(m, torch.rand(2, 1, 8, 8)) for m in (demo.model(), torch.jit.script(demo.model())))
    assert scripted.parameters == 172_218
    assert scripted.macs == plain.macs == 2 * 1_631_872
    ran = [[layer.name for layer in size.layers if layer.macs] for size in (plain, scripted)]
    assert ran[0] == ran[1]


class Fed(nn.Module):
    """A layer that is fed a view of a parameter, as learnt queries and position tables are in many networks."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.query, self.view = nn.Parameter(torch.randn(4, 8)), view
        self.proj, self.head = nn.Linear(8, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x @ self.proj(self.view(self.query)).reshape(4, 8).t())
        return out


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "slice": lambda q: q[:4],
    "reshape": lambda q: q.reshape(2, 2, 8),
    "unsqueeze": lambda q: q[None],
    "expand": lambda q: q[None].expand(1, -1, -1),
    "transposed twice": lambda q: q.t().contiguous().t(),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_layer_that_is_fed_a_view_of_a_parameter_is_watched_like_any(view: Callable[[Tensor], Tensor]) -> None:
    size = summary(Fed(view), torch.rand(5, 8))
    macs = {layer.name: layer.macs for layer in size.layers}
    assert macs == {"": 5 * 8 * 4, "proj": 4 * 8 * 8, "head": 5 * 4 * 3}
    assert [layer.name for layer in size.layers] == ["", "proj", "head"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("compiled", [False, True])
def test_inference_mode_inside_and_compilation_outside_hide_nothing(compiled: bool) -> None:
    class Inside(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                out: Tensor = super().forward(x)
                return out

    model: Any = torch.compile(demo.model()) if compiled else Inside(*demo.model().children())
    assert compiled or summary(model[:1], torch.rand(1, 1, 8, 8)).macs == 9 * 16 * 64
    assert not compiled or summary(model, torch.rand(1, 1, 8, 8)).macs == 1_631_872


OPERATIONS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]], int]] = {
    "mv": (torch.mv, [(5, 7), (7,)], 35),
    "addmv": (torch.addmv, [(5,), (5, 7), (7,)], 35),
    "dot": (torch.dot, [(7,), (7,)], 7),
    "mm": (torch.mm, [(5, 7), (7, 3)], 105),
    "addmm": (torch.addmm, [(5, 3), (5, 7), (7, 3)], 105),
    "bmm": (torch.bmm, [(2, 5, 7), (2, 7, 3)], 210),
    "baddbmm": (torch.baddbmm, [(2, 5, 3), (2, 5, 7), (2, 7, 3)], 210),
    "addbmm": (torch.addbmm, [(5, 3), (2, 5, 7), (2, 7, 3)], 210),
    "matmul": (torch.matmul, [(2, 4, 5, 7), (7, 3)], 840),
    "bilinear": (F.bilinear, [(6, 5), (6, 7), (3, 5, 7)], 6 * 3 * 5 * 7),
    "einsum": (partial(torch.einsum, "bik,bjk->bij"), [(2, 5, 7), (2, 3, 7)], 210),
    "convolution": (F.conv1d, [(2, 4, 9), (6, 4, 3)], 2 * 7 * 6 * 4 * 3),
    "transposed": (F.conv_transpose1d, [(2, 4, 9), (4, 6, 3)], 2 * 9 * 4 * 6 * 3),
    "no batch": (F.conv2d, [(4, 9, 9), (6, 4, 3, 3)], 49 * 6 * 4 * 9),
    "attention": (F.scaled_dot_product_attention, [(2, 3, 5, 8), (2, 3, 6, 8), (2, 3, 6, 8)], 2 * 2 * 3 * 5 * 6 * 8),
    "fewer heads": (
        partial(F.scaled_dot_product_attention, enable_gqa=True),
        [(2, 4, 5, 8), (2, 2, 6, 8), (2, 2, 6, 8)],
        2 * 2 * 4 * 5 * 6 * 8,
    ),
}
BEYOND_TORCHS_COUNTER = {"mv", "addmv", "dot", "addbmm", "bilinear", "attention", "fewer heads"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_macs_of_every_operation_by_hand_and_by_torchs_counter(name: str) -> None:
    operation, shapes, by_hand = OPERATIONS[name]

    class Operation(nn.Module):
        def forward(self, *operands: Tensor) -> Tensor:
            return operation(*operands)

    operands = tuple(torch.rand(shape) for shape in shapes)
    assert summary(Operation(), operands).macs == by_hand
    if name not in BEYOND_TORCHS_COUNTER:
        assert flops(Operation(), *operands) == 2 * by_hand


def test_watching_does_not_wait_for_torchs_compiler() -> None:
    code = "import torch, sys, shrinkwidget as sw; sw.summary(torch.nn.Linear(2, 2), torch.rand(1, 2))"
    modules = "[name for name in ('torch._dynamo', 'torch.utils.flop_counter') if name in sys.modules]"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; print({modules})"], capture_output=True, check=True, text=True
    )
    assert found.stdout == "[]\n"


# How it reads


class Outline(HTMLParser):
    """Collects the text of a fragment, and fails where its tags do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@every_model
def test_text_html_and_dict_tell_the_same(build: Callable[[], nn.Module]) -> None:
    size = summary(build())
    plain = json.loads(json.dumps(size.to_dict(), allow_nan=False))
    assert plain["parameters"] == size.parameters
    assert [layer["name"] for layer in plain["layers"]] == [layer.name for layer in size.layers]
    words = Outline(size._repr_html_()).words
    for found in (repr(size), " ".join(words)):
        assert f"{size.title}: {size.parameters:,} parameters" in found
        assert f"{size.safetensors:,} bytes" in found
    assert {tensor.why for tensor in size.tensors} <= {word.partition(": ")[2] for word in words} | {""}


def test_columns_line_up() -> None:
    lines = repr(summary(demo.model(), torch.rand(1, 1, 8, 8))).splitlines()
    table = lines[lines.index("") + 1 :]
    assert {line.index("BatchNorm2d") for line in table if "BatchNorm2d" in line} == {table[0].index("type")}
    assert len({len(line) for line in table}) == 1


def test_hundreds_of_layers_are_cut_to_a_screenful() -> None:
    size = summary(nn.Sequential(*[nn.Linear(4, 4) for _ in range(300)]))
    lines = repr(size).splitlines()
    assert len(lines) < 45
    assert "  … 269 more layers: see .layers …" in lines
    assert lines[-1].startswith("  299 ")
    assert len(size.layers) == 300


def test_names_are_escaped_in_html() -> None:
    words = Outline(summary({"<script>.weight": torch.zeros(2, 2)})._repr_html_()).words
    assert "<script>" in words


@pytest.mark.parametrize(
    "n, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_960, "100 kB"),
     (999_600, "1.00 MB"), (1_079_000, "1.08 MB"), (25_500_000_000, "25.5 GB")],
)  # fmt: skip
def test_bytes_read_with_three_digits(n: int, text: str) -> None:
    assert bytes_text(n) == text


@given(st.integers(1000, 10**15 - 10**12))
def test_counts_keep_three_digits_and_their_size(n: int) -> None:
    number, prefix = count_text(n).split()
    assert len(number.replace(".", "")) == 3
    assert float(number) * 1000.0 ** " kMGT".index(prefix) == pytest.approx(n, rel=0.006)


def test_a_size_is_a_value() -> None:
    assert summary(demo.model()) == summary(demo.model())
    assert isinstance(summary(demo.model()), ModelSummary)
