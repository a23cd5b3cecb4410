"""The notebooks of the documentation run, and are kept without what they showed."""

import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import notebooks  # noqa: E402

BOOKS = sorted(notebooks.FOLDER.glob("*.ipynb"))
SHOWN = {  # of each, what a reader is to see
    "ablation": ["4 finished", "in the mean; 6 seeds can settle it", "<svg"],
    "denominators-and-temperature": ["rgba(0,103,165", "Temperature on the next", "<svg"],
    "which-token": ["group 0 | R 1", "rgba(194,74,0,.25)", "biased by", "<svg"],
}


def test_every_notebook_is_tried():
    assert [path.stem for path in BOOKS] == sorted(SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_is_about(path):
    page = notebooks.page(notebooks.run(path))
    for words in SHOWN[path.stem]:
        assert words in page


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_a_page_has_words_code_and_what_it_showed_without_progress():
    cell = nbformat.v4.new_code_cell("f()")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="10 %"),
        nbformat.v4.new_output("stream", name="stdout", text="said\n"),
        nbformat.v4.new_output("execute_result", {"text/html": "<b>1</b>", "text/plain": "one"}),
        nbformat.v4.new_output("execute_result", {"text/plain": "two"}),
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Words"), cell])
    assert notebooks.page(book) == (
        "# Words\n\n```python\nf()\n```\n\n```text\nsaid\n```\n\n"
        '<div style="overflow-x:auto"><b>1</b></div>\n\n'
        "```text\ntwo\n```\n"
    )
