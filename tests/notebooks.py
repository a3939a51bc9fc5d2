"""Execute notebooks and clean them for the repository: `python tests/notebooks.py [NAME ...]` (`make notebooks`).

A committed notebook is executed from top to bottom. Widget state is left out (GitHub refuses notebooks whose state is
malformed, and it is large), and so is the widget view of an output, so that the PNG twin beside it shows until the cell is
run.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def notebooks() -> list[Path]:
    """All lessons, in order."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def execute(path: Path, timeout: int = 180) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom in its own folder; raises on the first error."""
    book = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    # Joined streams: where a print happens to be flushed is no part of a lesson.
    NotebookClient(book, timeout=timeout, resources=place, coalesce_streams=True).execute()
    return clean(book)


def clean(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without widget state, widget views and the clock."""
    book.metadata.pop("widgets", None)
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if data or output.output_type not in ("display_data", "execute_result"):
                kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    return book


def main(names: list[str]) -> None:
    for path in notebooks():
        if names and not any(name in path.name for name in names):
            continue
        started = time.perf_counter()
        nbformat.write(execute(path), path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
