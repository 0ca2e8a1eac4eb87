"""Run the notebooks in docs/tutorials and store their outputs: `python scripts/run_tutorials.py [NAME.ipynb ...]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder, which changes it in place, and return it with the outputs."""
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the clock
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    """Run the notebooks that the command line names, or all, and write them."""
    names = [Path(name).name for name in sys.argv[1:]] or sorted(path.name for path in FOLDER.glob("*.ipynb"))
    for name in names:
        started = time.monotonic()
        notebook = run(nbformat.read(FOLDER / name, as_version=4), FOLDER)
        nbformat.write(notebook, FOLDER / name)
        print(f"{name}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
