"""Parameters that share memory, as they are or through views, are one: counted, compressed, saved and loaded as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shrinkwidget.analysis.model_summary import summary
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model, overlapping, view_of
from shrinkwidget.compressed_model import compress, load
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune
from shrinkwidget.training.retrain_and_training_run import retrain

from .packed_file_helpers import same_bits

RECIPES = [
    Recipe(),
    Recipe(bits=2),
    Recipe(sparsity=0.6),
    Recipe(bits=4, structure="2:4"),
    Recipe(bits=3, quantizer="kmeans"),
]


class Tied(nn.Module):
    """An autoencoder whose decoder looks at its encoder's weights; the one that looks may be defined first."""

    def __init__(self, view: Callable[[Tensor], Tensor], shape: tuple[int, ...] = (16, 8), seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.ParameterDict({"weight": torch.randn(shape)})
        self.decoder = nn.ParameterDict({"weight": nn.Parameter(view(self.encoder["weight"].detach()))})

    def forward(self, x: Tensor) -> Tensor:
        a, b = (part["weight"].flatten(1) for part in (self.encoder, self.decoder))
        out: Tensor = torch.relu(x @ a.t()) @ b.t().reshape(a.shape[0], -1)
        return out


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "itself": (lambda w: w, (16, 8)),
    "transposed": (lambda w: w.t(), (16, 8)),
    "permuted": (lambda w: w.permute(2, 0, 1), (4, 8, 4)),
    "reshaped": (lambda w: w.view(8, 16), (16, 8)),
    "squeezed": (lambda w: w[:, :, 0, 0], (16, 8, 1, 1)),
    "transposed and unsqueezed": (lambda w: w.t()[None], (16, 8)),
    "contiguous only as it looks": (lambda w: w.t(), (8, 16)),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("view, shape", VIEWS.values(), ids=VIEWS)
def test_weights_tied_through_a_view_stay_one(
    view: Callable[[Tensor], Tensor], shape: tuple[int, ...], recipe: Recipe, tmp_path: Path
) -> None:
    model = Tied(view, shape)
    (entry,) = open_model(model).entries
    assert entry.aliases == ("decoder.weight",)
    assert summary(model).parameters == entry.numel
    compressed = compress(model, recipe)
    assert compressed.model is not None
    assert compressed.save(tmp_path / "file") == compressed.nbytes
    fresh = Tied(view, shape, seed=1)
    loaded = load(tmp_path / "file", into=fresh)
    for name, value in compressed.model.state_dict().items():
        assert same_bits(value, fresh.state_dict()[name])
        assert same_bits(value, loaded.state_dict()[name])
    for both in (compressed.model, fresh):
        weights = [p.data_ptr() for p in both.parameters(recurse=True)]
        assert len(set(weights)) == 1
        with torch.no_grad():
            both.get_parameter("encoder.weight").fill_(7)
        assert (both.get_parameter("decoder.weight") == 7).all()


def test_a_file_of_tied_weights_fills_a_model_that_does_not_tie_them_and_not_the_other_way_round(
    tmp_path: Path,
) -> None:
    tied, apart = Tied(lambda w: w.t()), Tied(lambda w: w.t().clone())
    compress(tied, Recipe(bits=3)).save(tmp_path / "tied")
    load(tmp_path / "tied", into=apart)
    assert torch.equal(apart.decoder["weight"], apart.encoder["weight"].t())
    with torch.no_grad():
        apart.decoder["weight"].add_(1)
    compress(apart, Recipe(bits=3)).save(tmp_path / "apart")
    before = tied.encoder["weight"].clone()
    with pytest.raises(FileError, match=r"'decoder\.weight' shares memory with 'encoder\.weight'"):
        load(tmp_path / "apart", into=tied)
    assert torch.equal(tied.encoder["weight"], before)


def test_retraining_keeps_a_transposed_tie_and_its_mask() -> None:
    class Classifier(Tied):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = torch.relu(x @ self.encoder["weight"].t()) @ self.decoder["weight"].t()
            return out

    x, y = torch.randn(60, 8), torch.arange(60) % 8
    small = compress(Classifier(lambda w: w.t()), Recipe(sparsity=0.5))
    done = retrain(small, (x, y), method=FineTune(epochs=2, lr=0.05)).model
    assert done is not None
    assert small.model is not None
    one, other = (done.get_parameter(f"{name}.weight") for name in ("encoder", "decoder"))
    assert one.data_ptr() == other.data_ptr()
    before = small.model.get_parameter("encoder.weight")
    assert torch.equal(one == 0, before == 0)
    assert not torch.equal(one, before)


@pytest.mark.parametrize(
    "part",
    [lambda w: w[:4], lambda w: w[::2], lambda w: w[:, 1:3], lambda w: w[:1].expand(16, 8), lambda w: w.t()[:, 1:]],
    ids=["rows", "every second", "columns", "expanded", "transposed"],
)
def test_memory_shared_in_part_is_counted_once_and_refused_by_both_names(part: Callable[[Tensor], Tensor]) -> None:
    model = Tied(part)
    assert summary(model).parameters == 128
    assert summary(model).nbytes == 512
    with pytest.raises(
        ModelError, match=r"'decoder\.weight' and 'encoder\.weight' share a part.*model\.decoder\.weight = "
    ):
        compress(model, Recipe(bits=4))


def test_one_expanded_parameter_is_refused_with_the_cure() -> None:
    layer = nn.Linear(8, 4, bias=False)
    layer.weight = nn.Parameter(torch.randn(1, 8).expand(4, 8))
    assert summary(layer).parameters == 8
    with pytest.raises(ModelError, match=r"'weight' are one place in memory.*model\.weight = nn\.Parameter"):
        compress(layer, Recipe())
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    assert compress(layer, Recipe()).model is not None


def test_parts_of_one_memory_that_do_not_overlap_are_none_of_each_other(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = torch.randn(8, 12)
            self.left, self.right = nn.Parameter(both[:, :4]), nn.Parameter(both[:, 4:])

    compressed = compress(Halves(), Recipe(bits=4))
    compressed.save(tmp_path / "halves")
    fresh = Halves()
    load(tmp_path / "halves", into=fresh)
    assert compressed.model is not None
    assert all(same_bits(fresh.state_dict()[n], v) for n, v in compressed.model.state_dict().items())


def test_a_buffer_in_a_parameters_memory_is_that_parameter(tmp_path: Path) -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = torch.randn(6, 4)
            self.table = nn.Module()
            self.table.register_buffer("weight", weight.t())
            self.layer = nn.Linear(4, 6)
            self.layer.weight = nn.Parameter(weight)

    first, bias = open_model(Remembers()).entries
    assert (first.name, first.aliases, first.compressible) == ("layer.weight", ("table.weight",), True)
    compressed = compress(Remembers(), Recipe(bits=2))
    compressed.save(tmp_path / "file")
    fresh = Remembers()
    load(tmp_path / "file", into=fresh)
    assert compressed.model is not None
    assert all(same_bits(fresh.state_dict()[n], v) for n, v in compressed.model.state_dict().items())
    assert bias.name == "layer.bias"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_whatever_way_a_view_looks_it_is_described_as_it_looks(shape: list[int], rng: object) -> None:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))  # type: ignore[attr-defined]
    base = torch.arange(float(torch.Size(shape).numel())).view(shape)
    base = base.permute(torch.randperm(base.ndim, generator=generator).tolist())
    other = base.permute(torch.randperm(base.ndim, generator=generator).tolist()).unsqueeze(0)
    view = view_of(base, other)
    assert view is not None
    assert torch.equal(view.of(base), other)
    steps = base.stride()
    flat = base.permute(sorted(range(base.ndim), key=lambda axis: -steps[axis])).reshape(-1)
    assert (view := view_of(base, flat)) is None or torch.equal(view.of(base), flat)


@given(st.data())
def test_overlaps_are_those_of_the_elements(data: st.DataObject) -> None:
    memory = torch.arange(24)
    views = []
    for number in range(data.draw(st.integers(2, 4))):
        view = memory.view(4, 6)
        for axis in range(2):
            start, step = data.draw(st.integers(0, view.shape[axis] - 1)), data.draw(st.integers(1, 3))
            view = view.narrow(axis, start, view.shape[axis] - start)
            view = view[::step] if axis == 0 else view[:, ::step]
        views.append((str(number), view))
    elements = {name: set(view.flatten().tolist()) for name, view in views}
    found = {frozenset(pair[:2]) for pair in overlapping(views)}
    for one in elements:
        for other in elements:
            if one != other and frozenset((one, other)) in found:
                assert elements[one] & elements[other]
    touched = {name for pair in found for name in pair}
    for name, mine in elements.items():
        if any(mine & theirs for other, theirs in elements.items() if other != name):
            assert name in touched
