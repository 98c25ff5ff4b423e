"""Kinds that somebody else registered, on the page: controls made of their schema, and figures that only Python has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from playwright.sync_api import BrowserContext, expect
from torch import Tensor

import shrinkwidget as sw
from shrinkwidget import recipe_and_method_registry as kinds
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import nearest
from shrinkwidget.compression.encode_layers_and_packed_model import Grid, LayerWeights, Piece
from shrinkwidget.widgets.explorer import Explorer

from .standalone_page import BarePage
from .test_accessibility import AXE

WAIT_SECONDS = 120


@dataclass(frozen=True, repr=False)
class Octaves(sw.methods.Quantizer):
    """Powers of two of either sign below a layer's largest magnitude."""

    kind: ClassVar[str] = "octaves"
    label: ClassVar[str] = "octaves"
    title: ClassVar[str] = "powers of two, with either sign"
    widths: ClassVar[tuple[int, ...]] = (3, 4)
    has_scales: ClassVar[bool] = False
    has_codebook: ClassVar[bool] = True

    step: float = sw.methods.setting(1.0, sw.methods.Number("octave", "from one value to the next", 0.5, 2.0, 0.5))
    fine: bool = sw.methods.setting(
        False,
        sw.methods.Choice(
            "values", ((False, "coarse", "whole steps"), (True, "fine", "half steps")), bits=(4,), idle="4 bits only"
        ),
    )
    extra: tuple[float, ...] = ()

    def fit(self, layer: LayerWeights) -> Grid:
        """Return the powers below the largest magnitude."""
        step = self.step / (2 if self.fine else 1)
        powers = layer.flat.abs().max().float() * 2 ** (-step * torch.arange(2 ** (layer.plan.bits - 1)))
        return Grid(layer.plan, codebook=torch.cat([-powers, powers.flip(0)]))

    def encode(self, piece: Piece, grid: Grid) -> Tensor:
        """Return the index of the nearest value."""
        assert grid.codebook is not None
        return nearest(piece.x, grid.codebook)

    def decode(
        self, codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, bits: int
    ) -> Tensor:
        """Return the powers."""
        del scales, zeros, bits
        assert codebook is not None
        return codebook[codes.int()]


@dataclass(frozen=True, repr=False)
class Loudest(sw.methods.Importance):
    """Magnitudes in units of their output channel's largest."""

    kind: ClassVar[str] = "loudest"
    label: ClassVar[str] = "loudest"
    title: ClassVar[str] = "what is small in its channel goes first"
    scope: ClassVar[str] = "layer"

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return the magnitudes over the largest of the row."""
        del name, statistic
        return rows.abs() / rows.abs().amax(1, keepdim=True).clamp(min=1e-30)


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Return an explorer in a process where the two kinds are registered."""
    with pytest.MonkeyPatch.context() as patch:
        for role, known in kinds._REGISTER.items():
            patch.setitem(kinds._REGISTER, role, dict(known))
        patch.setattr(kinds, "_CLASSES", dict(kinds._CLASSES))
        sw.methods.register(Octaves)
        sw.methods.register(Loudest)
        made = sw.explore(sw.demo.model(), sw.demo.data())
        assert isinstance(made, Explorer)
        yield made
        made.close()


@pytest.fixture
def page(context: BrowserContext, explorer: Explorer) -> Iterator[BarePage]:
    """Open the explorer with its options unfolded; the test fails if the page complained."""
    explorer.recipe = sw.Recipe(sparsity=0.5, bits=8)
    explorer._page = {"options": True, "shown": True}
    assert explorer.wait(WAIT_SECONDS)
    bare = BarePage.open(context.new_page(), explorer)
    yield bare
    assert bare.complaints == []


def choose(page: BarePage, name: str, value: object) -> None:
    page.part(name).locator(f"input[value='{value}']").check()
    page.painted()


def labels(page: BarePage, name: str) -> list[str]:
    return page.part(name).locator("label").all_inner_texts()


def test_a_registered_kind_is_offered_with_its_settings_and_reaches_python(page: BarePage) -> None:
    offered = labels(page, "quantizer")
    assert [*offered[:2], offered[-1]] == ["uniform", "k-means", "octaves"]
    choose(page, "quantizer", "octaves")
    page.settle()
    assert page.widget.recipe == sw.Recipe(sparsity=0.5, bits=4, quantizer="octaves"), "8 bits give way to the nearest"
    expect(page.part("bits").locator("input[value='8']")).to_be_disabled()
    assert page.part("bits").locator("label", has_text="8").first.get_attribute("title") == "octaves has 3 or 4 bits"
    choose(page, "fine", "true")
    page.part("step").locator("input").fill("0.5")
    page.part("step").locator("input").press("Tab")
    page.settle()
    assert page.widget.recipe.quantizer == Octaves(step=0.5, fine=True)
    assert page.words("extra") == "extra []"
    choose(page, "bits", 3)
    assert page.part("fine").get_attribute("title") == "4 bits only"
    page.settle()
    assert page.widget.recipe.bits == 3


def test_an_importance_brings_its_scope(page: BarePage) -> None:
    choose(page, "importance", "loudest")
    page.settle()
    assert page.widget.recipe == sw.Recipe(sparsity=0.5, bits=8, importance="loudest", scope="layer")
    choose(page, "scope", "channel")
    page.settle()
    assert page.widget.recipe.scope == "channel"
    assert page.words("exact-only").startswith("exact only: loudest has no estimate")


def test_while_a_drag_moves_the_last_exact_figures_stay_and_the_page_says_that_it_waits(page: BarePage) -> None:
    choose(page, "quantizer", "octaves")
    page.settle()
    before = page.widget.estimate
    size = page.part("size-now")
    expect(size).to_have_attribute("data-bytes", str(before.nbytes))
    page.part("sparsity").fill("90")
    page.painted()
    assert page.words("status") == "exact only: counting…"  # first of all: a kernel that takes long is said to be busy
    assert page.words("exact-only") == "exact only: waits for the kernel; the figures are the last ones it counted"
    expect(size).to_have_attribute("data-bytes", str(before.nbytes))
    expect(size).to_have_attribute("data-exact", "false")
    assert page.view.locator(".sw-size").evaluate("(size) => getComputedStyle(size).opacity") == "0.5"
    page.settle()
    after = page.widget.estimate
    assert after.exact
    assert after.nbytes < before.nbytes
    expect(size).to_have_attribute("data-bytes", str(after.nbytes))
    expect(size).to_have_attribute("data-exact", "true")
    assert page.words("exact-only").startswith("exact only: octaves has no estimate")


def test_a_layer_of_its_own_may_have_another_quantizer_and_only_its_outline_is_drawn(page: BarePage) -> None:
    page.part("layers-table").click()
    page.part("layer-tables").locator("button", has_text="stem").click()
    page.painted()
    assert page.part("curve").is_visible()
    choose(page, "way", "own")
    choose(page, "own-quantizer", "octaves")
    page.settle()
    assert page.widget.recipe.layers["stem"]["quantizer"] == Octaves()
    assert page.part("curve").count() == 0
    assert page.words("no-curve") == "No curve of error against bits: octaves has no estimate."
    page.part("large").hover(position={"x": 60, "y": 60})
    assert "octaves: the distribution is not drawn" in page.view.locator(".sw-tip").inner_text()
    page.part("close-detail").click()


def test_a_kind_the_page_has_never_heard_of_is_shown_as_it_is(page: BarePage) -> None:
    lattice = '{"kind":"lattice","dimension":8,"basis":[1,2]}'
    strange = f'{{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4,"quantizer":{lattice}}}'
    page.tell({"_recipe": strange})
    assert labels(page, "quantizer")[-1] == "lattice"
    assert [page.words("dimension"), page.words("basis")] == ["dimension 8", "basis [1,2]"]
    assert page.part("basis").get_attribute("title") == "set this in Python"
    assert page.words("exact-only").startswith("exact only: waits for the kernel")
    page.tell()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [700, 1400])
def test_generated_controls_are_accessible_and_fit(page: BarePage, screenshots: Path, theme: str, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 1800})
    page.page.evaluate(f"document.body.dataset.jpThemeLight = '{str(theme == 'light').lower()}'")
    if theme == "dark":
        page.page.add_style_tag(
            content="body { background: #111; --jp-layout-color1: #111; --jp-ui-font-color1: #eee }"
        )
    choose(page, "quantizer", "octaves")
    choose(page, "importance", "random")
    page.settle()
    page.part("layers-table").click()
    page.part("layer-tables").locator("button", has_text="stem").click()
    page.painted()
    page.page.add_script_tag(path=AXE)
    found: dict[str, Any] = page.view.evaluate("root => axe.run(root)")
    assert [f"{rule['help']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]] == []
    page.view.screenshot(path=screenshots / f"kinds-{theme}-{width}.png", animations="disabled")
    assert page.view.evaluate("root => root.scrollWidth <= root.clientWidth")
    page.part("sparsity").fill("80")
    page.painted()
    page.view.screenshot(path=screenshots / f"kinds-waiting-{theme}-{width}.png", animations="disabled")
    page.part("close-detail").click()


def test_every_setting_of_every_built_in_kind_has_a_control(page: BarePage) -> None:
    for quantizer in ("uniform", "kmeans"):
        choose(page, "quantizer", quantizer)
        for setting in fields(next(kind for kind in kinds.kinds("quantizer") if kind.kind == quantizer)):
            assert page.part(setting.name).is_visible()
