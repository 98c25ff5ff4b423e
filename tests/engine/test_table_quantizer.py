"""NF4 and other tables of values: exact bytes, the same bits from the file, and training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.compression.quantizers.nf4_and_tables import NF4_VALUES
from shrinkwidget.errors import NoEstimateError, RecipeError
from shrinkwidget.methods import NF4, Table

from .packed_file_helpers import FLOATS, same_bits
from .training_helpers import mlp, points


def weights(dtype: torch.dtype, *shape: int) -> Tensor:
    w = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return w.to(dtype)


def test_the_table_is_that_of_the_paper() -> None:
    """Quantiles of a normal distribution, nine of the positive half and eight of the negative, zero in both."""
    offset = 0.9677083
    positive = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([positive, negative, torch.zeros(1, dtype=torch.float64)]).sort().values
    assert torch.allclose(torch.tensor(NF4_VALUES, dtype=torch.float64), values / values.max(), atol=2e-6)


@pytest.mark.parametrize("granularity", ["tensor", "channel", 16, 7])
def test_every_weight_goes_to_the_nearest_value_of_its_group(granularity: Any) -> None:
    w = weights(torch.float32, 6, 40)
    small = sw.compress({"w": w}, sw.Recipe(quantizer="nf4", granularity=granularity))
    (encoded,) = small.encoded.values()
    size = {"tensor": 240, "channel": 40}.get(granularity, granularity)
    rows = w.reshape(1, -1) if granularity == "tensor" else w
    after = small.state_dict()["w"].reshape(rows.shape)
    groups = 0
    for row, found in zip(rows, after, strict=True):
        for start in range(0, len(row), size):
            part, scale = row[start : start + size], float(encoded.scales[groups])  # type: ignore[index]
            assert scale == pytest.approx(float(part.abs().max()), rel=1e-3)
            values = torch.tensor(NF4_VALUES) * scale
            best = (part[:, None] - values).abs().min(1).values
            assert torch.allclose((part - found[start : start + size]).abs(), best, atol=1e-6)
            groups += 1
    assert encoded.scales is not None
    assert groups == len(encoded.scales)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("quantizer", [NF4(), Table(values=(-1, -0.25, 0.5)), Table(values=(-1, -0.5, 0, 0.5, 1))])
def test_the_file_is_as_large_as_said_and_loads_bit_for_bit(
    quantizer: Any, sparsity: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    state = {"w": weights(dtype, 9, 21), "v": weights(dtype, 4, 8), "b": weights(dtype, 9)}
    small = sw.compress(state, sparsity, quantizer=quantizer, granularity=8)
    for entropy in (False, True):
        path = tmp_path / f"{entropy}.safetensors"
        assert small.save(path, entropy=entropy) == path.stat().st_size
        loaded = sw.load(path)
        assert loaded.recipe == small.recipe
        assert all(same_bits(tensor, small.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert small.save(tmp_path / "plain") == small.nbytes
    if quantizer.table()[-1] < 1:  # the largest weight of a group may be none of its values
        return
    again = sw.compress(loaded.state_dict(), small.recipe)
    assert all(same_bits(again.state_dict()[n], small.state_dict()[n]) for n in ("w", "v", "b"))


def test_bits_are_those_of_the_table() -> None:
    assert sw.Recipe(quantizer="nf4").bits == 4
    assert sw.Recipe().with_(quantizer="nf4").bits == 32  # at 32 bits there is nothing to quantize
    assert sw.Recipe(bits=8).with_(quantizer="nf4").bits == 4
    assert sw.Recipe(bits=8, layers={"a": dict(quantizer="nf4")}).layers["a"] == {"bits": 4, "quantizer": NF4()}
    assert sw.Recipe(quantizer="nf4", layers={"a": dict(bits=32)}).resolve(["a", "b"])[0].bits == 32
    with pytest.raises(RecipeError, match=r"quantizer 'nf4' has 4 bits, got bits=3; leave bits out, or take another"):
        sw.Recipe(bits=3, quantizer="nf4")
    with pytest.raises(RecipeError, match=r"the override of 'a': quantizer 'nf4' has 4 bits, got bits=2"):
        sw.Recipe(quantizer="nf4", layers={"a": dict(bits=2)})


@pytest.mark.parametrize("values", [(), (0.5,), (0.5, 0.2), (-2, 2), (0, 0), ("a", "b"), (float("nan"), 1), 3])
def test_a_table_that_cannot_be_is_refused(values: Any) -> None:
    with pytest.raises(RecipeError, match="different numbers from -1 to 1, ascending"):
        Table(values)


def test_a_table_travels_in_a_recipe() -> None:
    recipe = sw.Recipe(quantizer=Table(values=(-1, 0, 0.5)))
    text = recipe.to_json()
    assert text.endswith('"bits":2,"quantizer":{"kind":"table","values":[-1,0,0.5]}}')
    assert sw.Recipe.from_json(text) == recipe
    assert repr(recipe) == "Recipe(bits=2, quantizer=Table(values=(-1.0, 0.0, 0.5)))"


def test_it_has_no_estimate_and_says_where_the_exact_figures_are() -> None:
    with pytest.raises(NoEstimateError, match=r"quantizer 'nf4' has no estimate .*layer 'stem'.*compress"):
        sw.estimate(sw.sketch(sw.demo.model()), quantizer="nf4")


def test_training_on_the_table_ends_on_the_table() -> None:
    small = sw.compress(mlp(), sw.Recipe(sparsity=0.5, quantizer="nf4", granularity="tensor"))
    trained = sw.retrain(small, points(), epochs=2, lr=0.05)
    assert isinstance(trained.model, nn.Module)
    for name, encoded in trained.encoded.items():
        w = dict(trained.model.named_parameters())[name]
        assert encoded.scales is not None
        assert torch.isin(w, torch.tensor(NF4_VALUES) * encoded.scales).all()
        assert int((w == 0).sum()) >= int(0.4 * w.numel())
    assert any(not torch.equal(trained.encoded[n].codes, c.codes) for n, c in small.encoded.items())
