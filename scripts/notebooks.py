"""Notebooks of the documentation: run, and turned into pages by a hook of mkdocs."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
LIMIT = 240  # seconds of a cell


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in its folder; a cell that raises ends it.

    Raises:
        CellExecutionError: with the cell and its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, timeout=LIMIT, resources=where).execute()


def page(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook as Markdown: its words, its code, and what the code showed."""
    return "\n\n".join(part for cell in notebook.cells for part in _parts(cell)) + "\n"


def _parts(cell: nbformat.NotebookNode) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield cell.source
        return
    yield f"```python\n{cell.source}\n```"
    for output in cell.outputs:
        if output.get("name") != "stderr":  # bars of progress
            yield _shown(output)


def _shown(output: nbformat.NotebookNode) -> str:
    """Return an output in the richest form that it has."""
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div style="overflow-x:auto">{data["text/html"]}</div>'
    return f"```text\n{data.get('text/plain', output.get('text', '')).rstrip()}\n```"
