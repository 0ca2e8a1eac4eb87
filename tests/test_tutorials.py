"""The notebooks in docs/tutorials run without an error, and their stored outputs are those of a whole run."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
FIGURES = {"radar_archive": 1, "train_a_layer": 2}


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    """Return the cells of one kind."""
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def figures(outputs: list[dict[str, Any]]) -> list[str]:
    """Return the figures among outputs."""
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def test_the_notebooks_are_those_of_the_navigation() -> None:
    navigation = re.findall(r": (tutorials/\S+)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(navigation) == [f"tutorials/{path.name}" for path in NOTEBOOKS]
    assert [path.stem for path in NOTEBOOKS] == list(FIGURES)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_leaves_no_files(notebook: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev: nbformat")
    for package in ("nbclient", "ipykernel", "torch"):
        pytest.importorskip(package)
    run = runpy.run_path(str(ROOT / "scripts" / "run_tutorials.py"))["run"]
    done = run(nbformat.read(notebook, as_version=4), tmp_path)  # an error of a cell is an error here
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert len(figures(outputs)) == FIGURES[notebook.stem]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_those_of_one_run_from_top_to_bottom(notebook: Path) -> None:
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert len(figures(outputs)) == FIGURES[notebook.stem]
    assert notebook.stat().st_size < 250_000
    assert not re.search(r"/(tmp|home|root|work|Users)/", notebook.read_text(encoding="utf-8")), "a path of a machine"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_pages(notebook: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert len(links) >= 3
    for link in links:
        path, _, anchor = link.partition("#")
        if path:
            assert (notebook.parent / path).exists(), link
        else:
            assert f"## {anchor.replace('-', ' ')}" in text.lower(), link
