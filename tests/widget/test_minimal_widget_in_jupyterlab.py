"""The harness itself: a minimal widget in a real JupyterLab, its trait seen from both sides."""

from __future__ import annotations

from playwright.sync_api import expect

from .conftest import Open

WIDGET = """
import anywidget, threading, traitlets, time
class Slider(anywidget.AnyWidget):
    _esm = '''
    export default {render({model, el}) {
        const input = document.createElement("input");
        input.type = "range"; input.dataset.testid = "slider";
        input.oninput = () => { model.set("value", Number(input.value)); model.save_changes(); };
        el.append(input);
        const out = document.createElement("output");
        out.dataset.testid = "twice";
        model.on("change:twice", () => { out.textContent = model.get("twice"); });
        el.append(out);
    }}
    '''
    value = traitlets.Int(0).tag(sync=True)
    twice = traitlets.Int(0).tag(sync=True)
slider = Slider()
if hasattr(slider.comm, "_reply_subshell_for"):  # ipykernel 7.4 would answer on the cell's own thread
    slider.comm._reply_subshell_for = None
slider.observe(lambda change: setattr(slider, "twice", 2 * change.new), "value")
among_cells = []
slider.observe(lambda _: among_cells.append(threading.current_thread() is threading.main_thread()), "value")
slider
"""


def test_what_the_page_sets_is_what_python_sees(open_notebook: Open) -> None:
    book = open_notebook(WIDGET)
    book.run_all()
    book.page.get_by_test_id("slider").fill("21")
    expect(book.page.get_by_test_id("twice")).to_have_text("42")
    assert book.python("slider.value") == 21


def test_a_widget_answers_while_a_cell_runs(open_notebook: Open) -> None:
    book = open_notebook(WIDGET, "while slider.value != 5: time.sleep(0.01)\ntime.sleep(0.5)")
    book.run(0)
    # JupyterLab makes the widget's subshell in its own time; what is sent before goes to the thread of the cells
    for value in range(10, 60):
        book.page.get_by_test_id("slider").fill(str(value))
        expect(book.page.get_by_test_id("twice")).to_have_text(str(2 * value))
        if not book.python("among_cells[-1]"):
            break
    book.start(1)
    book.page.get_by_test_id("slider").fill("4")
    expect(book.page.get_by_test_id("twice")).to_have_text("8")
    assert book.running(1)
    book.page.get_by_test_id("slider").fill("5")
    assert book.python("slider.twice") == 10
