"""The weights of a checkpoint in its tab, in a real JupyterLab: the ridge fills in, sliders answer, quantized files."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gguf
import numpy as np
import psutil
import pytest
import torch
from playwright.sync_api import Error, Locator, WebSocketRoute, expect
from safetensors.torch import load_file, save_file

import shrinkwidget as sw

from .explorer_page import NEXT_FRAME
from .jupyterlab_server import Lab
from .lab_page import LabPage
from .notebook_page import LONG, Notebook, until

LAYERS = {f"model.layers.{i}.attn.weight": (96, 64) for i in range(6)}


@pytest.fixture
def checkpoint(jupyterlab: Lab, tmp_path: Path) -> Path:
    """Return a checkpoint in a folder of its own that JupyterLab shows."""
    folder = jupyterlab.folder / tmp_path.name
    folder.mkdir()
    torch.manual_seed(0)
    state = {name: torch.randn(shape) * 0.02 for name, shape in LAYERS.items()}
    state |= {"model.embed.weight": torch.randn(100, 64).half(), "model.norm.weight": torch.ones(64)}
    save_file(state, folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture
def lab(lab: LabPage, checkpoint: Path) -> LabPage:
    """Show the checkpoint's folder in JupyterLab."""
    lab.open_folder(checkpoint.parent.name)
    return lab


# how large a canvas is, and what is on it
DRAWN = "canvas => ({width: canvas.width, height: canvas.height, pixels: canvas.toDataURL()})"

# whether all of the tree is in sight at a width, and how many columns beside the names: a number cut off is another one
COLUMNS = """(tree, width) => {
    tree.style.width = `${width}px`;
    const numbers = [...tree.querySelectorAll("td, thead th:nth-child(n + 2)")];
    const whole = [tree, ...numbers].every(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth);
    const shown = numbers.filter((cell) => cell.tagName === "TH" && cell.clientWidth > 0).length;
    tree.style.width = "";
    return [whole, shown];
}"""


def phase(viewer: Locator, name: str) -> None:
    """Wait until looking at the weights has come so far: its process goes last, and loads torch."""
    expect(viewer.get_by_test_id("weights")).to_have_attribute("data-phase", name, timeout=LONG)


def shown_bytes(viewer: Locator) -> int:
    return int(viewer.get_by_test_id("size-now").get_attribute("data-bytes") or 0)


def recipe(viewer: Locator) -> sw.Recipe:
    """Return the recipe that the button copies as code, once all is drawn that was changed."""
    viewer.page.evaluate(NEXT_FRAME)
    found = eval(viewer.get_by_test_id("copy").get_attribute("title") or "", {"sw": sw})  # noqa: S307
    assert isinstance(found, sw.Recipe)
    return found


def choose(viewer: Locator, setting: str, value: str) -> None:
    viewer.get_by_test_id(setting).locator(f"label:has(input[value='{value}'])").click()


def drag_to(lab: LabPage, viewer: Locator, share: float) -> None:
    slider = viewer.get_by_test_id("sparsity")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    mouse = lab.page.mouse
    mouse.move(box["x"] + 2, middle)
    mouse.down()
    mouse.move(box["x"] + box["width"] * share, middle, steps=10)
    mouse.up()


def test_a_double_click_leads_to_the_table_the_ridge_and_sliders_that_answer(
    lab: LabPage, checkpoint: Path, screenshots: Path
) -> None:
    viewer = lab.double_click("tiny.safetensors")
    expect(viewer.get_by_test_id("checkpoint-facts")).to_contain_text("8 tensors")
    phase(viewer, "done")
    expect(viewer.get_by_test_id("ridge")).to_be_visible()
    tree = viewer.get_by_test_id("checkpoint-tree")
    assert [tree.evaluate(COLUMNS, width) for width in (700, 620, 550, 420, 340)] == [
        [True, n] for n in (5, 4, 3, 2, 1)
    ]
    sketch = sw.sketch(checkpoint)
    assert shown_bytes(viewer) == sw.estimate(sketch, sw.Recipe()).nbytes
    about = viewer.get_by_test_id("sqnr").locator(".sw-approx")
    expect(about).to_have_attribute("data-exact", "true")  # nothing is rounded yet: there is nothing to estimate
    drag_to(lab, viewer, 0.7)
    choose(viewer, "bits", "4")
    made = recipe(viewer)
    assert 0.6 < made.sparsity < 0.8
    assert made.bits == 4
    expect(about).to_have_attribute("data-exact", "false")
    assert shown_bytes(viewer) == sw.estimate(sketch, made).nbytes
    viewer.get_by_test_id("options").click()
    choose(viewer, "structure", "2:4")
    assert recipe(viewer).structure == sw.methods.NM(2, 4)
    assert shown_bytes(viewer) == sw.estimate(checkpoint, recipe(viewer)).nbytes
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        Notebook(lab.page).theme(theme)
        lab.page.screenshot(path=screenshots / f"weights-{theme.split()[-1].lower()}.png")


def test_the_page_pauses_goes_on_cancels_and_looks_again(lab: LabPage, checkpoint: Path) -> None:
    """Of what the server sends only the header arrives until the test lets it through."""
    held: list[str | bytes] = []
    asked: list[dict[str, Any]] = []
    pages: list[WebSocketRoute] = []
    released: list[bool] = []

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()
        if released:
            return
        pages.append(page)

        def from_server(message: str | bytes) -> None:
            if isinstance(message, str) and json.loads(message)["state"] == "model":
                page.send(message)
            else:
                held.append(message)

        def from_page(message: str | bytes) -> None:
            asked.append(json.loads(message))
            server.send(message)

        server.on_message(from_server)
        server.on_close(lambda *_: None)  # the page hears of the end when it has all
        page.on_message(from_page)

    page = lab.page.context.new_page()
    page.route_web_socket(re.compile("shrinkwidget/api/sketch"), between)
    own = LabPage.load(lab.lab, page)  # sockets are only routed of pages opened after that
    own.open_folder(checkpoint.parent.name)
    viewer = own.double_click("tiny.safetensors")
    phase(viewer, "running")
    status = viewer.get_by_test_id("weights-status")
    expect(status).to_have_text(re.compile(r"0\sB of 160\skB read"))
    sketched = viewer.get_by_test_id("sketching")
    expect(sketched).to_have_text("sketched 0 of 7 layers")
    whole = [viewer.get_by_test_id(name) for name in ("size-now", "sqnr", "pruned", "largest-layer", "macs")]
    assert [figure.count() for figure in whole] == [0] * len(whole)  # figures of the whole would be untrue
    slider = viewer.get_by_test_id("sparsity")
    assert slider.evaluate("element => element.closest('[inert]') !== null")
    # the rows in sight, which are all
    until(page, lambda: any(set(message.get("first", ())) == {"model.embed.weight", *LAYERS} for message in asked))
    viewer.get_by_role("button", name="Pause").click()
    expect(status).to_contain_text("paused")
    viewer.get_by_role("button", name="Go on").click()
    until(page, lambda: asked[-2:] == [{"pause": True}, {"pause": False}])
    page.wait_for_timeout(1000)  # before that nobody can tell how long it takes
    until(page, lambda: sum(isinstance(message, bytes) for message in held) >= 3)
    for message in [message for message in held if isinstance(message, bytes)][:3]:
        pages[0].send(message)
    expect(status).to_have_text(re.compile(r"of 160\skB read · about"))
    viewer.get_by_role("button", name="Cancel").click()
    phase(viewer, "cancelled")
    expect(status).to_have_text(re.compile("^Cancelled: .* and the controls wait until all are.$"))
    expect(sketched).to_have_text("sketched 3 of 7 layers")
    released.append(True)
    viewer.get_by_role("button", name="Look again").click()
    phase(viewer, "done")
    expect(sketched).to_have_count(0)
    expect(viewer.get_by_test_id("largest-layer")).to_be_visible()  # multiply-accumulates are not in the file
    assert shown_bytes(viewer) > 160_256
    assert own.our_errors() == []
    page.close()


def test_quantized_weights_are_drawn_and_not_offered_to_recipes(lab: LabPage, checkpoint: Path) -> None:
    writer = gguf.GGUFWriter(checkpoint.with_suffix(".gguf"), "llama")
    weights = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    for name in ("Q4_0", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"blk.0.{name}.weight", gguf.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lab.refresh()
    viewer = lab.double_click("tiny.gguf")
    phase(viewer, "done")
    expect(viewer.get_by_test_id("weights-quantized")).to_contain_text("Quantized already (Q4_0, Q8_0)")
    expect(viewer.get_by_test_id("ridge")).to_be_visible()
    assert viewer.get_by_test_id("sparsity").evaluate("element => element.closest('[inert]') !== null")
    stored = 64 * 256 // 32 * (18 + 34)
    assert stored < shown_bytes(viewer) < 1.05 * stored


def test_a_layer_of_nan_is_told_and_the_others_are_shown(lab: LabPage, checkpoint: Path) -> None:
    state = {name: torch.randn(shape) for name, shape in LAYERS.items()}
    state["model.layers.2.attn.weight"][0] = float("nan")
    save_file(state, checkpoint.with_name("nan.safetensors"))
    lab.refresh()
    viewer = lab.double_click("nan.safetensors")
    phase(viewer, "done")
    expect(viewer.get_by_test_id("weights-failure")).to_contain_text("'model.layers.2.attn.weight' has 64 weights")
    expect(viewer.get_by_test_id("ridge")).to_have_attribute("aria-label", re.compile("^5 layers"))
    drag_to(lab, viewer, 0.5)
    assert recipe(viewer).sparsity > 0.4
    assert shown_bytes(viewer) > 96 * 64 * 4


def test_two_checkpoints_are_compared_and_sorted_by_what_changed(
    lab: LabPage, checkpoint: Path, screenshots: Path
) -> None:
    base = load_file(checkpoint)
    tuned = {name: tensor.clone() for name, tensor in base.items() if name != "model.norm.weight"} | {
        "new": torch.ones(2)
    }
    tuned["model.layers.3.attn.weight"] *= 1.5
    pruned = tuned["model.layers.1.attn.weight"]
    pruned[pruned.abs() < 0.02] = 0
    save_file(tuned, checkpoint.with_name("tuned.safetensors"))
    viewer = lab.double_click("tiny.safetensors")
    phase(viewer, "done")
    viewer.get_by_role("button", name="Compare with…").click()
    dialog = lab.page.locator(".jp-Open-Dialog")
    dialog.locator(".jp-DirListing-item").filter(has_text="tuned.safetensors").click()
    expect(dialog.locator(".jp-DirListing-item.jp-mod-selected")).to_contain_text("tuned.safetensors")
    lab.page.locator(".jp-Dialog .jp-mod-accept").click()
    comparison = viewer.get_by_test_id("comparison")
    expect(comparison).to_have_attribute("data-phase", "done", timeout=LONG)
    expect(comparison.get_by_test_id("comparison-status")).to_contain_text("5 of 7 tensors are the same")
    rows = comparison.get_by_test_id("comparison-row")
    expect(rows.first).to_contain_text("model.layers.3.attn.weight")
    change = float(rows.first.locator("[data-change]").get_attribute("data-change") or "nan")
    assert change == pytest.approx(0.5, rel=1e-6)
    comparison.get_by_role("button", name="zeros").click()
    expect(rows.first).to_contain_text("model.layers.1.attn.weight")
    share = float((pruned == 0).float().mean())
    expect(rows.first).to_contain_text(re.compile(rf"0\s% → {100 * share:.0f}\s%"))
    comparison.get_by_text("2 tensors cannot be compared").click()
    expect(comparison.get_by_test_id("comparison-only")).to_contain_text("only in tuned")
    lab.page.screenshot(path=screenshots / "comparison.png")
    comparison.get_by_role("button", name="Close").click()
    expect(comparison).to_have_count(0)


def sparse(path: Path, layers: int = 400, size: int = 4000) -> None:
    """Write a checkpoint of zeros that takes no place on the disk, 64 MB a layer: nobody waits until all are read."""
    nbytes = 4 * size * size
    header = {
        f"{i}.weight": {"dtype": "F32", "shape": [size, size], "data_offsets": [i * nbytes, (i + 1) * nbytes]}
        for i in range(layers)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + layers * nbytes)


def test_closing_the_tab_ends_the_work_and_a_file_that_changes_meanwhile_is_told(
    lab: LabPage, checkpoint: Path
) -> None:
    large, deleted = (checkpoint.with_name(f"{name}.safetensors") for name in ("large", "deleted"))
    sparse(large)
    os.link(large, deleted)
    lab.refresh()

    def workers() -> list[psutil.Process]:
        found = []
        for child in psutil.Process(lab.lab.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it may end meanwhile
                found += [child] * ("sketch_worker" in " ".join(child.cmdline()))
        return found

    def ended() -> bool:
        # what is as polite as a worker takes its time on a busy machine, to end as well
        for _ in range(LONG // 200):
            if not workers():
                return True
            lab.page.wait_for_timeout(200)
        return False

    def looked_at(path: Path) -> Locator:
        viewer = lab.double_click(path.name)
        viewer.get_by_role("button", name="Look at the weights").click()
        phase(viewer, "running")
        return viewer

    assert ended()  # those of the test before
    viewer = looked_at(large)
    assert len(workers()) == 1
    lab.close(viewer)
    assert ended()

    for path, change, words in (
        (deleted, Path.unlink, "there is no file"),
        (large, lambda path: os.truncate(path, 10**9), "has been changed since"),
    ):
        viewer = looked_at(path)
        viewer.get_by_role("button", name="Pause").click()
        change(path)
        with suppress(Error):  # it may have been noticed before, by a layer that was under way
            viewer.get_by_role("button", name="Go on").click(timeout=3_000)
        phase(viewer, "failed")
        status = viewer.get_by_test_id("weights-status")
        expect(status).to_contain_text(words)
        assert len(status.inner_text().splitlines()) == 1
        assert ended()
        lab.close(viewer)
    phase(lab.double_click("tiny.safetensors"), "done")


def test_a_tab_opened_in_the_background_is_laid_out_when_it_is_shown_and_asks_within_its_limits(
    lab: LabPage, checkpoint: Path, screenshots: Path
) -> None:
    lab.set("memoryGigabytes", 3)
    lab.set("minutes", 5)
    address = f"{checkpoint.parent.name}/{checkpoint.name}"
    with lab.page.expect_websocket(lambda socket: "shrinkwidget/api/sketch" in socket.url) as opened:
        lab.command("docmanager:open", path=address, options={"mode": "tab-after", "activate": False})
    assert parse_qs(urlsplit(opened.value.url).query) == {
        "path": [address],
        "memory": ["3000000000"],
        "seconds": ["300"],
    }
    viewer = lab.page.locator(".jp-shrinkwidget-checkpoint")
    phase(viewer, "done")
    expect(viewer).not_to_be_visible()
    lab.page.locator(".lm-TabBar-tab", has_text=checkpoint.name).click()
    expect(viewer.get_by_test_id("ridge")).to_be_visible()
    expect(viewer.get_by_test_id("checkpoint-row").first).to_be_visible()
    canvas = viewer.get_by_test_id("ridge-canvas")
    drawn = "(canvas) => canvas.width > 500"
    lab.page.wait_for_function(drawn, arg=canvas.element_handle())  # its first size comes a frame after the tab
    lab.page.evaluate(NEXT_FRAME)
    shown = canvas.evaluate(DRAWN)
    lab.page.screenshot(path=screenshots / "weights-shown-later.png")
    lab.close(lab.viewer)
    phase(lab.double_click(checkpoint.name), "done")
    lab.page.wait_for_function(drawn, arg=canvas.element_handle())
    lab.page.evaluate(NEXT_FRAME)
    assert canvas.evaluate(DRAWN) == shown
