"""Write the results in docs/reliability.json as a table into docs/reliability.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.torture.__main__ import proofs

PAGE = Path("docs/reliability.md")
MARKS = ("<!-- proofs -->", "<!-- end of proofs -->")


def rows(results: dict[str, dict]) -> list[str]:
    """Return the rows of the table, one for each proof that was run, and the names of the others."""
    lines = [
        "| proof | done | failures | further figures | seconds | date | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in results.items():
        figures = ", ".join(f"{value:,} {key}" for key, value in entry["figures"].items())
        done = entry["skipped"] or f"{entry['count']:,} {entry['unit']}"
        command = re.sub(r" --output \S+", "", entry["command"].removeprefix("python -m benchmarks.torture "))
        facts = (f"`{name}`", done, entry["failed"], figures, f"{entry['seconds']:.0f}", entry["date"], f"`{command}`")
        lines.append(f"| {' | '.join(map(str, facts))} |")
    absent = [f"`{name}`" for name in proofs() if name not in results]
    return [*lines, "", f"Not run yet: {', '.join(absent)}."] if absent else lines


def main() -> None:
    """Replace the table in the page."""
    results = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text("\n".join([before + MARKS[0], "", *rows(results), "", MARKS[1] + after]), encoding="utf-8")


if __name__ == "__main__":
    main()
