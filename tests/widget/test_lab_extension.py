"""The extension in a real JupyterLab: checkpoints in the file browser, notebooks made from them, the launcher."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from playwright.sync_api import Browser, Locator, expect
from safetensors.torch import load_file, save_file

import shrinkwidget as sw

from ..engine.test_gguf_header import write_gguf
from ..engine.test_safetensors_checkpoint import FIRST, SECOND, save_sharded
from .conftest import Open, new_context
from .jupyterlab_server import Lab, start
from .lab_page import LabPage
from .notebook_page import LONG, Notebook

BLOCKS = {f"model.layers.{i}.attn.weight": (64, 64) for i in range(6)} | {
    f"model.layers.{i}.norm": (64,) for i in range(6)
}


@pytest.fixture
def folder(jupyterlab: Lab, tmp_path: Path) -> Path:
    """Return a folder of checkpoints that JupyterLab shows."""
    found = jupyterlab.folder / tmp_path.name
    found.mkdir()
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in BLOCKS.items()}
    save_file(state | {"model.embed.weight": torch.randn(100, 64).half()}, found / "tiny.safetensors", {"epoch": "7"})
    write_gguf(found / "tiny.gguf")
    return found


@pytest.fixture
def lab(lab: LabPage, folder: Path) -> LabPage:
    """Show the folder of checkpoints in JupyterLab."""
    lab.open_folder(folder.name)
    return lab


def row(viewer: Locator, name: str) -> Locator:
    """Return the row of a module or tensor by the name it shows."""
    return viewer.get_by_test_id("checkpoint-row").filter(
        has=viewer.page.locator("th bdi").get_by_text(name, exact=True)
    )


def cells(found: Locator) -> list[str]:
    return [text.replace("\u00a0", " ") for text in found.locator("td").all_inner_texts()]


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
    assert cells(row(viewer, "model")) == ["", "F32, F16", "31,360", "113 kB", "100 %"]
    row(viewer, "layers").click()
    expect(viewer.get_by_text("×6")).to_have_count(1)
    row(viewer, "0…5").click()
    assert cells(row(viewer, "attn.weight")) == ["[64, 64]", "F32", "4,096", "16.4 kB", "15 %"]
    viewer.get_by_text("Metadata (1)").click()
    expect(viewer.get_by_test_id("checkpoint-metadata")).to_contain_text("epoch")
    asked = [ask for ask in lab.requests if "/api/contents/" in ask.url and "tiny.safetensors" in ask.url]
    assert asked, "JupyterLab asks for the file's name and date"
    assert lab.page.locator("script[src*='/extensions/shrinkwidget/']").count(), "`our_errors` tells ours by that"
    assert {ask.method for ask in asked} == {"GET"}, "and neither writes the file, nor copies it"
    read = [ask.url for ask in asked if "/checkpoints?" not in ask.url]
    assert [url for url in read if "content=0" not in url] == []
    assert [url for url in read if "hash=0" not in url] == [], "and no byte of the file is read for its hash"
    assert not [*folder.glob(".ipynb_checkpoints/*")]
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        Notebook(lab.page).theme(theme)
        lab.page.screenshot(path=screenshots / f"checkpoint-{theme.split()[-1].lower()}.png")
    lab.page.emulate_media(forced_colors="active")
    lab.page.screenshot(path=screenshots / "checkpoint-forced-colors.png")


def test_the_tree_is_searched_sorted_and_moved_in_by_keys(lab: LabPage) -> None:
    lab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    viewer = lab.double_click("tiny.safetensors")
    rows, grid = viewer.get_by_test_id("checkpoint-row"), viewer.get_by_role("treegrid")
    selected = viewer.locator("tr[aria-selected=true]")
    viewer.get_by_role("searchbox").fill("NORM layers.3")
    expect(rows).to_have_count(1)
    viewer.get_by_role("searchbox").fill("")
    viewer.get_by_role("button", name="bytes").click()
    assert rows.locator("th bdi").all_inner_texts() == ["model", "layers", "embed.weight"]
    viewer.get_by_role("button", name="bytes").click()
    expect(viewer.locator("th[aria-sort=ascending]")).to_have_count(1)
    assert rows.locator("th bdi").all_inner_texts() == ["model", "embed.weight", "layers"]
    grid.focus()
    for key, name in (("End", "layers"), ("ArrowRight", "layers"), ("ArrowRight", "0…5"), ("Enter", "0…5")):
        grid.press(key)
        expect(selected.locator("bdi")).to_have_text(name)
    expect(selected).to_have_attribute("aria-expanded", "true")
    expect(selected).to_have_attribute("aria-level", "3")
    for key, name in (("ArrowDown", "norm"), ("ArrowLeft", "0…5"), ("ArrowLeft", "0…5"), ("ArrowLeft", "layers")):
        grid.press(key)
        expect(selected.locator("bdi")).to_have_text(name)
    viewer.get_by_role("searchbox").fill("embed")
    rows.click()
    grid.press("Control+c")
    expect(viewer.get_by_role("button", name="Copied")).to_be_visible()
    code = lab.page.evaluate("navigator.clipboard.readText()")
    assert 'safe_open("tiny.safetensors"' in code
    assert 'get_tensor("model.embed.weight")' in code


def test_a_hundred_thousand_tensors_are_listed_and_few_of_them_are_in_the_page(lab: LabPage, folder: Path) -> None:
    n = 100_000
    header = {f"t.{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(n)}
    text = json.dumps(header).encode()
    (folder / "many.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(n))
    lab.refresh()
    viewer = lab.double_click("many.safetensors")
    expect(viewer.get_by_role("treegrid")).to_have_attribute("aria-rowcount", f"{n + 2}")
    assert viewer.get_by_test_id("checkpoint-row").count() < 100
    viewer.get_by_role("treegrid").focus()
    viewer.get_by_role("treegrid").press("End")
    expect(viewer.locator("tr[aria-selected=true] bdi")).to_have_text(f"{n - 1}")
    assert viewer.get_by_test_id("checkpoint-row").count() < 100
    viewer.get_by_role("searchbox").fill("9999")
    expect(viewer.locator(".sw-checkpoint").get_by_role("status")).to_have_text("19 found")


def test_a_gguf_file_is_shown_with_its_types(lab: LabPage) -> None:
    types = lab.double_click("tiny.gguf").get_by_test_id("checkpoint-dtypes")
    for name in ("Q4_K", "Q8_0", "TQ2_0", "F16"):
        expect(types).to_contain_text(name)


def test_a_folder_opens_from_its_context_menu_and_its_tab_is_there_after_a_reload(lab: LabPage, folder: Path) -> None:
    (folder / "llama").mkdir()
    save_sharded(folder / "llama")
    lab.refresh()
    with lab.saving("llama"):
        lab.menu("llama", "Open as Checkpoint")
        expect(lab.viewer.get_by_test_id("checkpoint-facts")).to_contain_text("2 files")
    lab.page.reload()
    expect(lab.viewer.get_by_test_id("checkpoint-facts")).to_contain_text("2 files", timeout=LONG)


def test_open_in_notebook_puts_what_opens_the_file_into_a_notebook(lab: LabPage, folder: Path) -> None:
    small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
    small.save(folder / "small.safetensors")
    weights = {"w": torch.arange(6.0).view(2, 3).mT, "b": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": weights | {"step": 5}}, folder / "old.pt")  # as a training writes it
    lab.refresh()
    lab.double_click("tiny.safetensors").get_by_role("button", name="Open in notebook").click()
    lab.page.wait_for_selector(".jp-Notebook .sw-explorer", timeout=LONG)
    book = Notebook(lab.page)
    assert book.python("type(_).__name__") == "Explorer"
    assert book.python("__import__('os').getcwd()") == str(folder)
    assert lab.sources(1)[0] == 'import shrinkwidget as sw\n\nsw.explore("tiny.safetensors")'
    # what follows goes into the notebook that is there
    viewer = lab.double_click("small.safetensors")
    expect(viewer.get_by_test_id("checkpoint-facts")).to_contain_text("packed by shrinkwidget · 90\u00a0%, 4 bits")
    parts = viewer.get_by_test_id("checkpoint-sections").locator("tbody tr").all_inner_texts()
    assert [row.split()[0] for row in parts] == ["counts", "codes", "mask", "scales", "rest", "header"]
    header = 8 + int.from_bytes((folder / "small.safetensors").read_bytes()[:8], "little")
    assert parts[-1].split("\t")[1] == f"{header / 1000:.3g}\u00a0kB"
    lab.menu("small.safetensors", "Open in Notebook")
    assert lab.sources(2)[1] == 'import shrinkwidget as sw\n\nsmall = sw.load("small.safetensors")\nsmall'
    book.until("'small' in globals()")
    assert book.python("small.nbytes") == small.nbytes
    lab.menu("old.pt", "Open in Notebook")
    assert 'torch.load("old.pt", map_location="cpu", weights_only=True)' in "".join(lab.sources(3))
    assert not (folder / "old.safetensors").exists(), "a pickle is nothing to read without being asked"
    book.run(2)
    converted = load_file(folder / "old.safetensors")
    assert {name: tensor.tolist() for name, tensor in converted.items()} == {
        name: tensor.tolist() for name, tensor in weights.items()
    }


def test_the_launcher_starts_with_a_model(lab: LabPage) -> None:
    lab.command("launcher:create")
    section = lab.page.locator(".jp-Launcher-section:visible", has_text="Shrink")
    expect(section.locator(".jp-LauncherCard")).to_have_count(3)
    section.locator(".jp-LauncherCard", has_text="Explore a Model").click()
    lab.page.wait_for_selector(".jp-Notebook .sw-explorer", timeout=LONG)


def test_the_launcher_leads_to_the_first_lesson_and_writes_over_nothing(lab: LabPage, folder: Path) -> None:
    lesson = folder / "shrinkwidget-workshop" / "1-what-a-model-weighs.ipynb"
    for _ in range(2):
        lab.command("launcher:create")
        section = lab.page.locator(".jp-Launcher-section:visible", has_text="Shrink")
        section.locator(".jp-LauncherCard", has_text="Workshop").click()
        expect(lab.page.get_by_role("heading", name="1. What a model weighs")).to_be_visible(timeout=LONG)
        if "mine" not in lesson.read_text(encoding="utf-8"):
            lesson.write_text(
                lesson.read_text(encoding="utf-8").replace("parameters = ...", "mine = 1"), encoding="utf-8"
            )
    assert "mine = 1" in lesson.read_text(encoding="utf-8")
    # the kernel that copied is gone; that of the lesson is the only one
    kernels = lab.page.evaluate(
        "window.jupyterapp.serviceManager.sessions.refreshRunning().then(() => "
        "[...window.jupyterapp.serviceManager.sessions.running()].map((s) => s.name))"
    )
    assert [name for name in kernels if name == "shrinkwidget-workshop"] == []


def written(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file of a header, with whatever length in front."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def one_tensor(name: str = "w", **changes: object) -> bytes:
    return json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}).encode()


BAD_FILES = {
    "empty": (b"", "too short for a safetensors file"),
    "huge": (written(b"{}", length=2**63), "its header should be 9,223,372,036,854,775,808 bytes long"),
    "beyond": (written(b"{}", length=10**6), "its header should be 1,000,000 bytes long, but only 2 follow"),
    "cut": (written(one_tensor(), bytes(2)), "2 bytes are missing at the end"),
    "outside": (
        written(one_tensor(data_offsets=[0, 2**40]), bytes(4)),
        "has 1,099,511,627,776 bytes in the file, but needs 4",
    ),
    "overlap": (
        written(json.dumps({n: json.loads(one_tensor())["w"] for n in "ab"}).encode(), bytes(4)),
        "'b' begins at byte 0 of the data, but should at 4",
    ),
    "twice": (written(b'{"w":{},"w":{}}'), "twice"),
    "dtype": (written(one_tensor(dtype="F3"), bytes(4)), "a type this version cannot read"),
    "letters": (written(b'{"\xff":{}}'), "not JSON"),
    "deep": (written(b"[" * 10**5), "not JSON"),
}


def test_every_bad_file_gives_one_sentence_in_its_tab(lab: LabPage, folder: Path, tmp_path: Path) -> None:
    for name, (data, _) in BAD_FILES.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    index = {"weight_map": {"w": "../../secret.safetensors"}}
    (folder / "escape.safetensors.index.json").write_text(json.dumps(index))
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (folder / "shards.safetensors.index.json").write_text(json.dumps(index))
    (folder / "swapped").mkdir()
    save_sharded(folder / "swapped")
    (folder / "swapped" / FIRST).rename(folder / "swapped" / "third")
    (folder / "swapped" / SECOND).rename(folder / "swapped" / FIRST)
    (folder / "swapped" / "third").rename(folder / "swapped" / SECOND)
    torch.save({}, folder / "old.pt")
    (folder / "folder.safetensors").mkdir()
    save_file({"w": torch.ones(1)}, folder / "protected.safetensors")
    (folder / "protected.safetensors").chmod(0)
    save_file({"w": torch.ones(1)}, tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    told = {f"{name}.safetensors": words for name, (_, words) in BAD_FILES.items()} | {
        "escape.safetensors.index.json": "which is not in its own folder",
        "shards.safetensors.index.json": "cannot be opened whole",
        "swapped/model.safetensors.index.json": "says that 'embed.weight' is in",
        "protected.safetensors": "Permission denied",
        "link.safetensors": "is not in the folder of this server",
        "old.pt": "reading a pickle can run any code in it",
    }
    for name, words in told.items():
        lab.command("docmanager:open", path=f"{folder.name}/{name}")
        failed = lab.viewer.get_by_test_id("checkpoint-failed")
        expect(failed.locator("p")).to_contain_text(words)
        assert len(failed.locator("p").inner_text().splitlines()) == 1
        lab.close(lab.viewer)
    for path, words in (
        (f"{folder.name}/folder.safetensors", "holds no .safetensors file"),
        ("../..", "is not in the"),
    ):
        lab.command("shrinkwidget:open-folder", path=path)
        expect(lab.viewer.get_by_test_id("checkpoint-failed")).to_contain_text(words)
        lab.close(lab.viewer)
    address = f"{lab.lab.url}shrinkwidget/api/checkpoint?path={folder.name}/tiny.safetensors"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(address)  # without the token
    expect(lab.page.locator(".jp-Dialog")).to_have_count(0)
    expect(lab.double_click("tiny.safetensors").get_by_test_id("checkpoint-facts")).to_be_visible()


def test_names_with_markup_are_shown_as_they_are(lab: LabPage, folder: Path) -> None:
    name = '<img src=x onerror="alert()">'
    (folder / "markup.safetensors").write_bytes(written(one_tensor(name), bytes(4)))
    lab.refresh()
    expect(row(lab.double_click("markup.safetensors"), name)).to_be_visible()
    assert lab.viewer.locator("img").count() == 0


def test_a_tab_says_what_has_become_of_its_file_or_of_the_server_and_can_try_again(lab: LabPage, folder: Path) -> None:
    path = folder / "tiny.safetensors"
    facts = lab.double_click(path.name).get_by_test_id("checkpoint-facts")
    expect(facts).to_contain_text("13 tensors")
    lab.command("docmanager:clone")  # a second tab on the same file
    expect(lab.viewer.get_by_test_id("checkpoint-facts").first).to_contain_text("13 tensors")
    lab.close(lab.viewer.last)
    failed, again = lab.viewer.get_by_test_id("checkpoint-failed"), lab.viewer.get_by_role("button", name="Try again")
    data = path.read_bytes()
    path.unlink()
    lab.command("docmanager:reload")
    expect(failed).to_contain_text("there is no file")
    path.write_bytes(data)
    again.click()
    expect(facts).to_contain_text("13 tensors")
    save_file({"one": torch.ones(1)}, path)
    lab.command("docmanager:reload")
    expect(facts).to_contain_text("1 tensor ")


@pytest.fixture
def start_until_the_end() -> Iterator[Callable[..., Lab]]:
    """Return a function that starts a JupyterLab, which ends with the test."""
    with ExitStack() as stack:

        def start_(*args: Any) -> Lab:
            running = start(*args)
            stack.callback(running.stop)
            return running

        yield start_


def test_a_tab_goes_on_after_the_server_has_restarted_and_says_when_its_session_has_expired(
    browser: Browser, tmp_path: Path, start_until_the_end: Callable[..., Lab]
) -> None:
    server = start_until_the_end(tmp_path)
    save_file({"one": torch.ones(1)}, server.folder / "one.safetensors")
    port = urlsplit(server.url).port
    with new_context(browser) as context:
        lab = LabPage.load(server, context.new_page())
        lab.command("docmanager:open", path="one.safetensors")
        facts, failed = (lab.viewer.get_by_test_id(f"checkpoint-{part}") for part in ("facts", "failed"))
        expect(facts).to_contain_text("1 tensor ")
        server.stop()
        lab.command("docmanager:reload")
        expect(failed).to_contain_text("does not answer")
        server = start_until_the_end(tmp_path, port, server.token)
        lab.viewer.get_by_role("button", name="Try again").dispatch_event("click")  # JupyterLab's dialog is above it
        expect(facts).to_contain_text("1 tensor ")
        server.stop()
        (tmp_path / "runtime" / "jupyter_cookie_secret").unlink()
        start_until_the_end(tmp_path, port)  # with another token
        lab.command("docmanager:reload")
        expect(failed).to_contain_text("Your session at the Jupyter server has expired")


def test_a_tab_is_there_again_after_a_reload_and_shows_bytes_as_the_settings_say(lab: LabPage) -> None:
    with lab.saving("tiny.safetensors"):
        facts = lab.double_click("tiny.safetensors").get_by_test_id("checkpoint-facts")
        expect(facts).to_contain_text("114\u00a0kB")
    lab.set("byteUnits", "binary")
    expect(facts).to_contain_text("111\u00a0KiB")
    row(lab.viewer, "layers").click()
    lab.viewer.get_by_role("button", name="bytes").click()
    expect(lab.viewer.get_by_test_id("weights")).to_have_attribute("data-phase", "done", timeout=LONG)
    lab.viewer.get_by_test_id("sparsity").fill("70")
    lab.page.wait_for_function("Object.values(sessionStorage).some((kept) => kept.includes('0.7'))")
    lab.page.reload()
    expect(facts).to_contain_text("111\u00a0KiB", timeout=LONG)
    expect(row(lab.viewer, "0…5")).to_be_visible()
    expect(lab.viewer.locator("th[aria-sort=descending]")).to_have_text("bytes ↓")
    expect(lab.viewer.get_by_test_id("sparsity")).to_have_value("70")
    lab.close(lab.viewer)  # what is closed is opened anew
    opened = lab.double_click("tiny.safetensors")
    expect(opened.get_by_test_id("checkpoint-facts")).to_contain_text("111\u00a0KiB")
    expect(row(opened, "0…5")).to_have_count(0)
    expect(lab.viewer.get_by_test_id("sparsity")).to_have_value("0")


def test_the_panel_lists_the_models_of_the_kernel_and_leaves_no_trace_in_it(
    open_notebook: Open, lab_page: LabPage, screenshots: Path
) -> None:
    book = open_notebook(
        "import shrinkwidget as sw, torch\nnet = sw.demo.model()\nhead = torch.nn.Linear(8, 2)",
        "ex = sw.explore(net)\nex",
        "del head\n'last'",
        "run = sw.retrain(net, sw.demo.few(per_class=8), epochs=100_000, background=True)\nNone",
        "waited = sw.retrain(net, sw.demo.few(per_class=8), epochs=100_000)",
    )
    book.command("shrinkwidget:show-models")
    models, trainings = book.page.get_by_test_id("kernel-model"), book.page.get_by_test_id("kernel-training")
    expect(models).to_have_count(0)
    book.run(0)
    expect(models).to_have_count(2)
    words = [text.replace("\u00a0", " ") for text in models.all_inner_texts()]
    assert re.search(r"net\W+DigitNet\s+172 k parameters · 693 kB · cpu", words[0])
    assert re.search(r"head\W+Linear\s+18 parameters · 72 B · cpu", words[1])
    book.run(1)
    models.filter(has_text="head").get_by_role("button").click()  # a model that no cell shows
    tab = book.page.locator(".jp-shrinkwidget-explorer .sw-explorer")
    expect(tab).to_be_visible()
    lab_page.close(tab)
    notebook = "[...window.jupyterapp.shell.widgets('main')].find((widget) => widget.sessionContext).id"
    book.page.evaluate(f"window.jupyterapp.shell.activateById({notebook})")
    models.filter(has_text="net").get_by_role("button").click()
    expect(tab.get_by_role("slider").first).to_be_visible()
    book.page.screenshot(path=screenshots / "models-panel.png")
    book.page.evaluate(f"window.jupyterapp.shell.activateById({notebook})")
    book.python("setattr(ex, 'sparsity', 0.75)")
    for view in (tab, book.page.locator(".jp-Cell .sw-explorer")):  # the same explorer
        expect(view.get_by_role("slider", name="Sparsity")).to_have_value("75")
    book.run(2)
    expect(models).to_have_count(1)
    assert book.python("_") == "last"
    assert book.python("get_ipython().execution_count") == 4
    assert book.python("list(Out)") == [2, 3]
    assert book.python("[line[:3] for line in In]") == ["", "imp", "ex ", "del"]
    book.run(3)
    expect(trainings).to_contain_text("epoch")
    trainings.get_by_role("button", name="Stop").click()
    expect(trainings).to_have_count(0)
    assert book.python("run.state") == "stopped"
    book.start(4)  # the cell waits for its training, and Stop does not wait for the cell
    expect(trainings).to_contain_text("epoch")
    assert book.running(4)
    trainings.get_by_role("button", name="Stop").click()
    expect(book.cell(4).locator(".jp-InputPrompt")).to_have_text("[5]:")
    expect(trainings).to_have_count(0)
    assert "of 100000 epochs" in book.python("waited.provenance")
    lab_page.set("byteUnits", "binary")
    expect(models.first).to_contain_text("676\u00a0KiB")
