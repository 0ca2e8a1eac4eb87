"""The prose of the project: no word of the deny-list and no sentence over 30 words.

Checked are the README, the changelog, the page on security, the pages and the texts of notebooks in `docs`, and every
string literal and docstring in `src/convlstm`.
`NOT_YET` lists the paths that still have findings; its numbers may only decrease.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 30
DENIED = re.compile(
    r"\b(mend|mends|mended|beside|besides|likewise|foretell|by turns|as it comes|at hand|the house|speaks of|so given"
    r"|(?<!hugging )faces?)\b",
    re.IGNORECASE,
)
EXEMPT = ("docs/development/notes.md",)
NO_PROSE = re.compile(r"^\s*(\||#|>>>|\.\.\.|!!!|<|\$|:::|\w+ += |[-*_]{3,}\s*$)")
CODE = re.compile(r"`[^`]*`|https?://\S+|\]\([^)]*\)")
SECTION = re.compile(r"^\s*(Args|Returns|Raises|Yields|Example|Shapes|Attributes|Source|Note)s?:\s*$")
ARGUMENT = re.compile(r"^\s*[\w*. \[\],`]{1,40}: ")
LIST_ITEM = re.compile(r"^\s*([-*+]|\d+\.) ")
ENDS = re.compile(r"(?<=[.!?:;])[)\"'`]*\s+")

# Paths that are not clean yet, with the number of findings that each may have. The numbers only decrease: lower them
# when a path has fewer findings, and remove a path that has none.
NOT_YET: dict[str, int] = {
    "docs/benchmarks/speed.md": 1,
}


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text, with list items and arguments apart; tables, headings and code are left out."""
    lines: list[str] = []
    in_code = False
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("```"):
            in_code = not in_code
        starts_new = bool(LIST_ITEM.match(line) or ARGUMENT.match(line))
        is_prose = not (in_code or not line.strip() or NO_PROSE.match(line) or SECTION.match(line))
        if lines and (starts_new or not is_prose or line.lstrip().startswith("```")):
            yield " ".join(lines)
            lines = []
        if is_prose and not line.lstrip().startswith("```"):
            lines.append(line.strip())


def findings(text: str) -> list[str]:
    """Return the denied words and the sentences that are too long."""
    found = []
    for paragraph in paragraphs(text):
        prose = CODE.sub("x", paragraph)
        found += [f"{match[0]!r} in: {paragraph[:80]}" for match in DENIED.finditer(prose)]
        for sentence in ENDS.split(prose):
            words = len(re.findall(r"\w[\w'’-]*", sentence))
            if words > LONGEST:
                found.append(f"{words} words: {sentence[:80]}")
    return found


def literals(source: str) -> Iterator[str]:
    """Yield every string literal and docstring; the parts of an f-string are joined."""
    tree = ast.parse(source)
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


def paths() -> list[str]:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    notebooks = (ROOT / "docs").rglob("*.ipynb")
    sources = (ROOT / "src" / "convlstm").rglob("*.py")
    names = [str(path.relative_to(ROOT)) for path in (*pages, *notebooks, *sources)]
    return sorted(name for name in names if name not in EXEMPT)


def findings_of(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return findings(text)
    if name.endswith(".ipynb"):
        texts = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return [finding for cell in texts for finding in findings(cell)]
    return [finding for literal in literals(text) for finding in findings(literal)]


@pytest.mark.parametrize("name", paths())
def test_language(name: str) -> None:
    found = findings_of(name)
    assert len(found) <= NOT_YET.get(name, 0), "\n".join(found)


def test_list_of_exceptions_names_only_existing_paths() -> None:
    gone = [name for name in NOT_YET if not (ROOT / name).is_file()]
    assert not gone, "remove these paths from NOT_YET"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It stands beside the other, and likewise here.", 2),
        ("Use `beside` in code only.", 0),
        ("The Hugging Face Hub has no other face.", 1),
        ("```python\nbeside = 1\n```\n", 0),
        ("| beside | likewise |", 0),
        (" ".join(["word"] * 30) + ".", 0),
        (" ".join(["word"] * 31) + ".", 1),
        (" ".join(["word"] * 30) + ". " + " ".join(["word"] * 30) + ".", 0),
        ("- " + " ".join(["word"] * 30) + "\n- " + " ".join(["word"] * 30), 0),
    ],
)
def test_how_findings_are_counted(text: str, count: int) -> None:
    assert len(findings(text)) == count
