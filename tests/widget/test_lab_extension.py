"""The extension in a real JupyterLab: checkpoints in the file browser, notebooks made from them, the launcher."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from playwright.sync_api import BrowserContext, Locator, Page, Request, expect
from safetensors.torch import save_file

import shrinkwidget as sw

from ..engine.test_gguf_header import write_gguf
from .jupyterlab_server import Lab
from .notebook_page import LONG, Notebook

BLOCKS = {f"model.layers.{i}.attn.weight": (64, 64) for i in range(6)} | {
    f"model.layers.{i}.norm": (64,) for i in range(6)
}


@dataclass
class LabPage:
    """JupyterLab in a fresh workspace, and the requests it has made."""

    lab: Lab
    page: Page
    requests: list[Request]
    complaints: list[str]

    def open_folder(self, name: str) -> None:
        self.page.goto(f"{self.lab.url}lab/workspaces/{secrets.token_hex(4)}/tree/{name}?token={self.lab.token}")
        self.page.wait_for_selector(".jp-DirListing-item", timeout=LONG)

    def double_click(self, name: str) -> Locator:
        """Open a file as a user does; return its tab's content."""
        self.page.locator(".jp-DirListing-item").filter(has_text=re.compile(rf"^\s*{re.escape(name)}")).dblclick()
        return self.page.locator(".jp-shrinkwidget-checkpoint:visible")


@pytest.fixture
def folder(jupyterlab: Lab, tmp_path: Path) -> Path:
    """Return a folder of checkpoints that JupyterLab shows."""
    found = jupyterlab.folder / tmp_path.name
    found.mkdir()
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in BLOCKS.items()}
    save_file(state | {"model.embed.weight": torch.randn(100, 64).half()}, found / "tiny.safetensors", {"epoch": "7"})
    write_gguf(found / "tiny.gguf")
    (found / "torn.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    return found


@pytest.fixture
def lab(jupyterlab: Lab, context: BrowserContext, folder: Path) -> Iterator[LabPage]:
    page = context.new_page()
    requests: list[Request] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request))  # playwright takes no builtin
    page.on("pageerror", lambda error: complaints.append(str(error)))
    found = LabPage(jupyterlab, page, requests, complaints)
    found.open_folder(folder.name)
    yield found
    assert complaints == []


def texts(rows: Locator) -> list[list[str]]:
    return [re.split(r"\t|\n", row.replace("\u00a0", " ")) for row in rows.all_inner_texts()]


def test_a_double_click_shows_what_is_in_a_checkpoint_and_reads_no_weight(
    lab: LabPage, folder: Path, screenshots: Path
) -> None:
    viewer = lab.double_click("tiny.safetensors")
    facts = viewer.get_by_test_id("checkpoint-facts")
    tensors, parameters = len(BLOCKS) + 1, 6 * (64 * 64 + 64) + 6400
    expect(facts).to_contain_text(f"{tensors} tensors")
    expect(facts).to_contain_text(f"{parameters / 1000:.1f}\u00a0k parameters")
    rows = viewer.get_by_test_id("checkpoint-row")
    expect(rows).to_have_count(3)  # model, opened as it is all there is, and its two parts
    viewer.get_by_role("button", name="layers", exact=False).first.click()
    expect(viewer.get_by_text("×6")).to_have_count(1)
    viewer.get_by_role("button", name="0…5").click()
    viewer.get_by_role("button", name="attn").click()
    weight = viewer.get_by_test_id("checkpoint-row").filter(has_text="[64, 64]")
    expect(weight).to_have_count(1)
    assert texts(weight)[0][-4:] == ["[64, 64]", "F32", "16.4 kB", "15 %"]
    viewer.get_by_role("searchbox").fill("norm")
    expect(rows).to_have_count(6)
    viewer.get_by_text("Metadata (1)").click()
    expect(viewer.get_by_test_id("checkpoint-metadata")).to_contain_text("epoch")
    asked = [ask for ask in lab.requests if "/api/contents/" in ask.url and "tiny.safetensors" in ask.url]
    assert asked, "JupyterLab asks for the file's name and date"
    assert {ask.method for ask in asked} == {"GET"}, "and neither writes the file, nor copies it"
    read = [ask.url for ask in asked if "/checkpoints?" not in ask.url]
    assert [url for url in read if "content=0" not in url] == []
    assert not [*folder.glob(".ipynb_checkpoints/*")]
    viewer.get_by_role("searchbox").fill("")
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        Notebook(lab.page).theme(theme)
        lab.page.screenshot(path=screenshots / f"checkpoint-{theme.split()[-1].lower()}.png")


def test_a_gguf_file_is_shown_with_its_types(lab: LabPage) -> None:
    viewer = lab.double_click("tiny.gguf")
    types = viewer.get_by_test_id("checkpoint-dtypes")
    for name in ("Q4_K", "Q8_0", "TQ2_0", "F16"):
        expect(types).to_contain_text(name)
    expect(viewer.get_by_role("button", name="Open in notebook")).to_have_count(0)


def test_open_in_notebook_explores_the_checkpoint_in_a_new_notebook(lab: LabPage, folder: Path) -> None:
    viewer = lab.double_click("tiny.safetensors")
    viewer.get_by_role("button", name="Open in notebook").click()
    lab.page.wait_for_selector(".jp-Notebook .sw-explorer", timeout=LONG)
    book = Notebook(lab.page)
    assert book.python("type(_).__name__") == "Explorer"
    assert book.python("__import__('os').getcwd()") == str(folder)
    code = lab.page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets[0].model.sharedModel.getSource()")
    assert code == 'import shrinkwidget as sw\n\nsw.explore("tiny.safetensors")'
    # a second time it goes into the notebook that is there
    lab.page.evaluate("window.jupyterapp.commands.execute('shrinkwidget:open-in-notebook').then(() => null)")
    expect(lab.page.locator(".jp-Notebook .sw-explorer")).to_have_count(2, timeout=LONG)
    book.shut_down()


def test_the_launcher_starts_with_a_model(lab: LabPage) -> None:
    lab.page.evaluate("window.jupyterapp.commands.execute('launcher:create').then(() => null)")
    section = lab.page.locator(".jp-Launcher-section:visible", has_text="Shrink")
    expect(section.locator(".jp-LauncherCard")).to_have_count(2)
    section.locator(".jp-LauncherCard", has_text="Explore a Model").click()
    lab.page.wait_for_selector(".jp-Notebook .sw-explorer", timeout=LONG)
    Notebook(lab.page).shut_down()


def test_a_bad_file_is_told_in_one_sentence_and_can_be_tried_again(lab: LabPage, folder: Path) -> None:
    viewer = lab.double_click("torn.safetensors")
    failed = viewer.get_by_test_id("checkpoint-failed")
    expect(failed).to_contain_text("its header should be 1,000,000,000 bytes long, but only 2 follow")
    save_file(sw.demo.model().state_dict(), folder / "torn.safetensors")
    failed.get_by_role("button", name="Try again").click()
    expect(viewer.get_by_test_id("checkpoint-facts")).to_contain_text("parameters")


def test_the_tab_is_there_again_after_a_reload(lab: LabPage) -> None:
    viewer = lab.double_click("tiny.safetensors")
    expect(viewer.get_by_test_id("checkpoint-facts")).to_be_visible()
    lab.page.wait_for_timeout(1500)  # JupyterLab saves its layout a second after a change
    lab.page.reload()
    expect(viewer.get_by_test_id("checkpoint-facts")).to_be_visible(timeout=LONG)
