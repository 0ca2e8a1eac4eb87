"""Measure the layers, other implementations and the convolutions alone: `python -m benchmarks.speed --help`."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convlstm.errors import ConvLSTMError

if TYPE_CHECKING:
    from benchmarks.speed.run import Row

WORKS = ("forward", "train", "memory")


def bench(
    group: Annotated[
        list[str] | None, typer.Option(help="Only this group, such as torch or keras-jax. Repeat for more.")
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="Only this case, such as wide or small. Repeat for more.")
    ] = None,
    work: Annotated[
        list[str] | None, typer.Option(help="Only this work: forward, train or memory. Repeat for more.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds after the first call.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of threads per process. Default: all processors.")
    ] = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds after which a process is stopped.")] = 600.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file. Rows that are not measured again stay in it.")
    ] = None,
) -> None:
    """Measure the layers, every other installed implementation and the convolutions alone, alternating in one run.

    Each line ends with the ratio of ours to the other: below 1, ours is faster or takes less memory. Run nothing else
    at the same time. All groups take hours: some implementations are stopped after ten minutes per case.

    Example: `python -m benchmarks.speed --group torch --case small`
    """
    from benchmarks.speed.groups import EVERY, GROUPS
    from benchmarks.speed.run import Effort, choose, machine, measured, merged
    from convlstm.cli.output import say
    from convlstm.files import check_writable, write_atomic

    groups = [GROUPS[name] for name in choose("group", group or [], list(GROUPS))]
    cases, works = choose("case", case or [], EVERY), choose("work", work or [], WORKS)
    effort = Effort(repeats, threads or os.cpu_count() or 1, limit)
    before = []
    if output is not None:
        check_writable(output)
        before = _rows(output)
    rows: list[Row] = []
    for one in groups:
        if one.missing:
            say(f"{one.name}: {', '.join(one.missing)} not installed")
            continue
        for row in measured(one, cases, works, effort):
            rows.append(row)
            say(_line(row))
        if output is not None:  # after each group, so that an interruption loses at most one
            text = json.dumps(machine(effort.threads) | {"rows": merged(before, rows)}, indent=1) + "\n"
            write_atomic(output, partial(_write, text=text))
    if not rows:
        say("nothing to measure: no installed group has such a case and work")


def _rows(path: Path) -> list[Row]:
    """Return the rows in the file of an earlier run, or none without such a file."""
    from benchmarks.speed.run import merged
    from convlstm.errors import DataError

    if not path.exists():
        return []
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        merged(rows, [])  # raises an error for wrong rows now, not after hours of measurement
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            str(path), expected="a file of an earlier run", received="another content", hint="Choose another file."
        ) from error
    return rows


def _write(draft: Path, text: str) -> None:
    draft.write_text(text, encoding="utf-8")


def _line(row: Row) -> str:
    place = f"{row['group']:<24}{row['case']:<9}{row['work']:<9}"
    if "stopped" in row:
        most = f" {row['contender']}: at most {row['ratio']:.4f}" if "contender" in row else ""
        return f"{place}over {row['stopped']:.0f} s{most}"
    if "bytes" in row:
        return f"{place}{row['contender']:<17}{row['bytes'] / 1e6:>9.0f} MB{row['ratio']:>47.3f}"
    spread = f"{row['least']:.4f} to {row['most']:.4f}"
    times = f"{row['median']:>9.4f} s  {spread:<20}  first {row['first']:>7.2f} s"
    return f"{place}{row['contender']:<17}{times}{row['ratio']:>9.3f}"


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code; an error of this package is one line on standard error."""
    app = typer.Typer(add_completion=False)
    app.command()(bench)
    try:
        app(arguments, standalone_mode=False)
    except ConvLSTMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
