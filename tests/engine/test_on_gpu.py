"""On a GPU: the same bits as on a CPU, models stay where they are, and everything that trains or scores runs there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

GPU = torch.device("cuda")
RECIPES = [
    sw.Recipe(0.9),
    sw.Recipe(0.9, 4),
    sw.Recipe(0.5, 8, scope="layer"),
    sw.Recipe(0.5, 3, scope="channel", granularity="channel"),
    sw.Recipe(0.6, 4, granularity=32, symmetric=True, clipping="absmax"),
    sw.Recipe(bits=2, granularity="tensor"),
    sw.Recipe(0.3, 16, uncompressed_bits=16),
    sw.Recipe(0.5, 4, quantizer="kmeans"),
    sw.Recipe(0.5, 4, quantizer="nf4"),
    sw.Recipe(structure="2:4", bits=6),
    sw.Recipe(0.7, importance=sw.methods.Random(3)),
    sw.Recipe(0.9, 4, layers={"stem": sw.Keep}),
]


def on_gpu(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(GPU)


def network() -> nn.Module:
    """Return the demo network with some weights at zero, of both signs, so that ties and zeros are ranked, too."""
    model = sw.demo.model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                flat = parameter.view(-1)
                flat[::7], flat[3::7] = 0.0, -0.0
                flat[5::11] = flat[5].item()
    return model


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_compressing_gives_the_bits_of_a_cpu_and_keeps_the_device(recipe: sw.Recipe, tmp_path: Path) -> None:
    model = network()
    one, other = sw.compress(model, recipe), sw.compress(on_gpu(model), recipe)
    assert other.model is not None
    assert {p.device.type for p in other.model.parameters()} == {"cuda"}
    assert one.save(tmp_path / "cpu.safetensors") == other.save(tmp_path / "gpu.safetensors") == other.nbytes
    assert (tmp_path / "cpu.safetensors").read_bytes() == (tmp_path / "gpu.safetensors").read_bytes()
    assert one.save(tmp_path / "cpu.z", entropy=True) == other.save(tmp_path / "gpu.z", entropy=True)
    again = sw.load(tmp_path / "gpu.safetensors", into=on_gpu(sw.demo.model()))
    assert again.model is not None
    for name, value in one.state_dict().items():
        assert same_bits(value, other.state_dict()[name]), name
        assert same_bits(value, again.model.state_dict()[name]), name
        assert same_bits(value, other.model.state_dict()[name]), name
        assert again.model.state_dict()[name].device.type == "cuda"


def same_bits(one: Tensor, other: Tensor) -> bool:
    one, other = one.cpu().contiguous(), other.cpu().contiguous()
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_sketch_is_that_of_a_cpu(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    one, other = sw.sketch(model), sw.sketch(on_gpu(model))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert (a.buckets.tobytes(), a.counts.tobytes()) == (b.buckets.tobytes(), b.counts.tobytes())
        assert (a.absmax, a.zeros, a.negative_zeros, a.blocks) == (b.absmax, b.zeros, b.negative_zeros, b.blocks)
    recipe = sw.Recipe(0.8, 4)
    estimates = [sw.estimate(sketch, recipe) for sketch in (one, other)]
    assert estimates[0].nbytes == estimates[1].nbytes
    assert estimates[0].sqnr == pytest.approx(estimates[1].sqnr, rel=1e-6)


def test_a_model_of_bfloat16_is_compressed_as_on_a_cpu() -> None:
    model = network().bfloat16()
    for recipe in RECIPES[:6]:
        one, other = sw.compress(model, recipe), sw.compress(on_gpu(model), recipe)
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name].cpu()), (recipe, name)


def test_an_nan_on_the_gpu_is_told_with_its_layer() -> None:
    model = on_gpu(sw.demo.model())
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(sw.errors.ModelError, match="stem"):
        sw.compress(model, 0.5)


def test_scores_are_those_of_a_cpu_wherever_the_data_lie() -> None:
    model, data = sw.demo.model(), sw.demo.data("valid")
    expected = sw.evaluate(model, data)
    for inputs in (data, tuple(part.to(GPU) for part in data)):
        score = sw.evaluate(on_gpu(model), inputs)
        assert score.n == expected.n
        assert score.value == pytest.approx(expected.value, abs=0.01)
    small = sw.compress(on_gpu(model), 0.9, bits=4)
    adjusted = sw.evaluate(small, data, recalibrate_batchnorm=sw.demo.data("train")[0])
    assert adjusted.value > 0.9


def test_importances_that_need_calibration_data_measure_it_on_the_gpu() -> None:
    model, data = sw.demo.model(), sw.demo.data("train")
    for importance in ("wanda", "taylor"):
        small = sw.compress(on_gpu(model), 0.5, importance=importance, calibration=data)
        reference = sw.compress(model, 0.5, importance=importance, calibration=data)
        masks = [
            (a.mask.cpu() == b.mask).float().mean()
            for a, b in zip(small.encoded.values(), reference.encoded.values(), strict=True)
            if a.mask is not None and b.mask is not None
        ]
        # sums of activations are not the same to the last bit, and a few weights near the threshold may change sides
        assert min(masks) > 0.99


@pytest.mark.parametrize("how", [{}, {"autocast": torch.bfloat16, "channels_last": True}], ids=["plain", "bfloat16"])
def test_retraining_holds_masks_and_grids_on_the_gpu(how: dict[str, Any]) -> None:
    model, train, valid = on_gpu(sw.demo.model()), sw.demo.data("train"), sw.demo.data("valid")
    small = sw.compress(model, 0.8, bits=4)
    options = sw.methods.TrainingOptions(seed=1, **how)
    again = sw.retrain(small, train, valid, method=sw.methods.FineTune(2), options=options)
    assert again.model is not None
    assert next(again.model.parameters()).device.type == "cuda"
    for name, layer in small.encoded.items():
        assert layer.mask is not None
        assert not again.model.state_dict()[name][~layer.mask].any()
        assert len(again.model.state_dict()[name][0].unique()) <= 2**4
    assert sw.evaluate(again, valid).value > 0.9
    for p, q in zip(model.parameters(), sw.demo.model().parameters(), strict=True):
        assert torch.equal(p.cpu(), q)  # what was given is not trained


def test_pruning_in_rounds_and_transfer_run_on_the_gpu() -> None:
    train, valid = sw.demo.data("train"), sw.demo.data("valid")
    rewinding = sw.methods.LearningRateRewinding(sw.methods.Schedule(1, 0.01))
    small = sw.prune_and_retrain(on_gpu(sw.demo.model()), train, valid, 0.7, rewinding, rounds=2)
    assert small.model is not None
    assert next(small.model.parameters()).device.type == "cuda"
    assert small.estimate is not None
    assert small.estimate.sparsity == pytest.approx(0.7, abs=0.01)
    few = sw.demo.few(5)
    result = sw.transfer(on_gpu(sw.demo.pretrained()), few, valid, strategy="linear_probe", epochs=2)
    assert next(result.model.parameters()).device.type == "cuda"


def test_sensitivity_and_what_changed_run_on_the_gpu() -> None:
    model, data = on_gpu(sw.demo.model()), sw.demo.data("valid")
    found = sw.sensitivity(model, data, sparsity=0.9, layers=["stem", "head"])
    reference = sw.sensitivity(sw.demo.model(), data, sparsity=0.9, layers=["stem", "head"])
    for one, other in zip(found.layers, reference.layers, strict=True):
        assert one.scores[0].value == pytest.approx(other.scores[0].value, abs=0.01)
    compared = [sw.compare_predictions(m, sw.compress(m, 0.9), data) for m in (model, sw.demo.model())]
    assert len(compared[0].misread) == pytest.approx(len(compared[1].misread), abs=3)


def test_the_explorer_works_on_a_model_on_the_gpu() -> None:
    pytest.importorskip("anywidget")
    model, data = sw.demo.model(), sw.demo.data("valid")
    explorer = sw.explore(on_gpu(model), data)
    try:
        explorer.recipe = sw.Recipe(0.9, 4)
        explorer.wait(120)
        assert explorer.estimate.exact
        assert explorer.estimate.nbytes == sw.compress(model, 0.9, bits=4).nbytes
        assert explorer.score is not None
        assert explorer.score.n == len(data[1])
    finally:
        explorer.close()
