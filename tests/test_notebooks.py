"""Every example notebook runs from top to bottom, without an error or a warning, and shows what its text says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
CELL_SECONDS = 120

CLAIMS: dict[str, dict[str, str]] = {
    "01-explore.ipynb": {
        "some digits are lost, not all a little": (
            "min(digit.correct / digit.labels for digit in broken.by_class) < 0.2"
            " and max(digit.correct / digit.labels for digit in broken.by_class) == 1"
        ),
        "there are misread digits to show": "len(found.misread) >= 8",
        "the stem minds more than any other layer": (
            "alone.layer('stem').scores[2].high"
            " < min(layer.scores[2].low for layer in alone.layers if layer.label != 'stem')"
        ),
        "keeping the stem is worth more than ten points": (
            "by_way['and the stem kept'].value - by_way['70 % of every layer'].value > 0.1"
            " and by_way['and the stem kept'].low > by_way['70 % of every layer'].high"
        ),
        "ranked together it loses nothing, and spares the stem": (
            "by_way['70 % of all together'].low > by_way['and the stem kept'].high and stem.kept > 0.8 * stem.n"
        ),
        "small is as good as dense on validation, within one image": (
            "sw.evaluate(loaded, valid).value > dense.value - 1.5 / dense.n and size > 10 * small.nbytes"
        ),
        "the page without a kernel is one small file": "nbytes < 500_000",
    },
    "02-prune-and-retrain.ipynb": {
        "pruned only, it never reads some digits": "'never predicted' in sw.evaluate(pruned, valid).warnings[0]",
        "batch norm alone brings nearly all of it back": (
            "sw.evaluate(renormed, valid).low > 0.95 and sw.evaluate(pruned, valid).high < 0.7"
        ),
        "with 1 weight in 32 it does not, and fine-tuning does": (
            "sw.evaluate(deep_renormed, valid).high < 0.8 and sw.evaluate(tuned, valid).low > 0.95"
        ),
        "a tenth of the weights is enough": "free['sparsity'] > 0.9",
        "the smallest is the one reported": "smallest.estimate.layer('stem').n == 144 and smallest is rewound.result",
    },
    "03-quantize.ipynb": {
        "fewer weights to a scale fit better, and cost bytes": (
            "grids['per 32 weights'].estimate.sqnr > grids['per channel'].estimate.sqnr"
            " and grids['per 32 weights'].nbytes > grids['per channel'].nbytes"
        ),
        "the grid of least error has less of it": (
            "grids['per channel, least error'].estimate.sqnr > grids['per channel'].estimate.sqnr + 0.5"
        ),
        "one bit guesses, and batch norm brings it back": "by_bits[1][0].high < 0.25 and by_bits[1][1].low > 0.9",
        "folding changes no output": "difference < 1e-4",
        "about a hundred times smaller": "90 < dense / small.nbytes_entropy_coded < 110",
        "as good as dense, as far as these images tell": "after.high > before.low",
        "this notebook is larger than the network": "os.path.getsize('03-quantize.ipynb') > small.nbytes_entropy_coded",
    },
    "04-transfer.ipynb": {
        "it reads print": "sw.evaluate(pretrained, sw.demo.printed_digits(1_000, seed=1)).low > 0.95",
        "on handwriting it does something, and not enough": (
            "0.4 < sw.evaluate(pretrained, valid).low and sw.evaluate(pretrained, valid).high < 0.9"
        ),
        "head and scratch are not told apart": (
            "moved.score.low < scratch.score.high and scratch.score.low < moved.score.high"
        ),
        "but one costs far less": "times > 100",
        "the small one is not told from the dense one, and a tenth of its bytes": (
            "learnt.score.high > found['all'].score.low"
            " and 10 * learnt.compressed.nbytes < sw.summary(pretrained).safetensors"
        ),
        "fifty images taught it to read more than print did": (
            "on_test['transferred'].low > on_test['print only'].high"
            " and on_test['small, transferred'].value > on_test['print only'].value"
        ),
    },
    "05-faster.ipynb": {
        "it has forgotten nearly everything, and batch norm alone does not bring it back": (
            "sw.evaluate(cut, valid).high < 0.3 and sw.evaluate(cut, valid, recalibrate_batchnorm=train).high < 0.5"
        ),
        "multiply-accumulates go with the square": "14 < fewer < 18",
        "trained, it is nearly as good as dense": "sw.evaluate(small, valid).low > 0.9",
        "the runtime has exactly these weights": "exported.exact == dense.exact == '14 of 14 tensors exactly'",
        "multiply-accumulates are not speed": "race.ratio('small', 32).value < 0.6 * fewer",
        "it fits where the dense one does not": (
            "sum(bool(row.fits) for row in fits.rows) > sum(bool(row.fits) for row in sw.fits(model, images[:1]).rows)"
        ),
    },
    "06-budget.ipynb": {
        "the file fits, to the byte, and stays as large whatever is done to its weights": (
            "trained['planned'].nbytes == recovered['planned'].nbytes == plan.nbytes <= 34_000"
        ),
        "no uniform recipe of this size is nearer, and that is no chance": "plan.comparison.low > 0",
        "before anything is trained the plan reads more digits": (
            "norms['planned'].value > norms['uniform'].value + 0.05"
        ),
        "most of the file are masks": "plan.estimate.parts()['mask'] > plan.nbytes / 2",
        "the stem keeps all its weights, and more bits than the largest layers": (
            "plan.layer('stem').sparsity == 0 and plan.layer('stem').bits > plan.layer('stage3.1.conv2').bits"
        ),
        "only the stem and the head have more than the fewest bits, and keep all their weights": (
            "{layer.name for layer in plan.layers if layer.bits > 2} == {'stem.weight', 'head.weight'}"
            " == {layer.name for layer in plan.layers if layer.sparsity == 0}"
        ),
        "the three largest layers are pruned most": (
            "{layer.n for layer in sorted(plan.layers, key=lambda layer: -layer.sparsity)[:3]} == {36_864}"
        ),
        "with batch norm alone the plan is clearly ahead": "norms['planned'].low > norms['uniform'].high",
        "recovered, the two are not told apart": (
            "sw.evaluate(recovered['planned'], valid).high > sw.evaluate(recovered['uniform'], valid).low"
            " and sw.evaluate(recovered['uniform'], valid).high > sw.evaluate(recovered['planned'], valid).low"
        ),
        "trained, the two are not told apart": (
            "sw.evaluate(trained['planned'], valid).high > sw.evaluate(trained['uniform'], valid).low"
            " and sw.evaluate(trained['uniform'], valid).high > sw.evaluate(trained['planned'], valid).low"
        ),
        "it reads nearly as well as the dense one": "after.low > 0.95",
        "a larger budget is worth more": "curve.scores[0].high < curve.scores[2].low",
    },
}
"""What the text of a notebook says, each as an expression over its variables that holds at its end."""

pytestmark = pytest.mark.slow


def test_there_is_the_notebook_that_make_demo_opens() -> None:
    assert "01-explore.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_from_top_to_bottom_and_shows_what_it_says(path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples")
    book = nbformat.read(path, as_version=4)
    claims = CLAIMS[path.name]
    checked = ", ".join(f"{claim!r}: bool({expression})" for claim, expression in claims.items())
    book.cells.append(nbformat.v4.new_code_cell(f"import json\n\nprint(json.dumps({{{checked}}}))"))
    NotebookClient(
        book, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    assert complaints(book) == []
    # a busy kernel may send a line and its end apart
    found = json.loads("".join(output.text for output in book.cells[-1].outputs))
    assert [claim for claim, holds in found.items() if not holds] == []
    assert list(found) == list(claims)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_clean(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert "widgets" not in book.metadata
    assert [cell.id for cell in book.cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_chooses_on_validation_and_reports_on_test(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert re.findall(r"(?:explore|retrain|transfer)\((?:[^()]|\([^()]*\))*\btest\b", code) == []
    assert re.search(r"evaluate\([\w.]+, test\)", code)
    text = " ".join(cell.source for cell in book.cells if cell.cell_type == "markdown").replace("\n", " ")
    assert re.search(r"report\w*( \w+){0,4} (on|on the 360 (images )?of) `?test`?, once", text), "say so in words"
    assert re.search(r"\*About \d+ (seconds|minutes) of computing on two cores", text), "say how long it takes"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_draws_with_sw_figures_alone(path: Path) -> None:
    assert "matplotlib" not in path.read_text().replace("matplotlib's fonts", "")


def test_the_pages_that_need_no_kernel_are_shown() -> None:
    code = "".join(path.read_text() for path in NOTEBOOKS)
    assert all(call in code for call in ("ex.to_html(", "ex.embed(", "rewound.to_html("))


def complaints(book: nbformat.NotebookNode) -> list[str]:
    """Return what the cells wrote to stderr: a warning a reader would have to wonder about."""
    outputs = (output for cell in book.cells for output in cell.get("outputs", []))
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
