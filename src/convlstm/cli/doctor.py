"""`convlstm doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convlstm.conformance.campaign import Row
    from convlstm.conformance.environments import SetUp


def doctor(
    parity: Annotated[
        bool, typer.Option("--parity", help="Hold every set-up to the reference over random cases, and to each other.")
    ] = False,
    seeds: Annotated[bool, typer.Option("--seeds", help="Run the call forms that people come from.")] = False,
    cases: Annotated[
        int, typer.Option(min=1, help="Random layers for --parity; a fifth as many common cells and forecasters.")
    ] = 20,
    start: Annotated[int, typer.Option(min=0, help="Seed of the first random case.")] = 0,
    setup: Annotated[
        list[str] | None, typer.Option(help="Only this set-up, as torch or keras-jax; repeat for more.")
    ] = None,
) -> None:
    """Show what is installed, and whether each framework computes what the contract says.

    Every set-up runs in a process of its own: PyTorch, Keras on each backend, Flax, MLX. Ends with exit code 1 if an
    installed one fails or misses a target.

    Example: `convlstm doctor --seeds --setup torch`
    """
    from convlstm.cli.output import say
    from convlstm.conformance.environments import choose_setups

    chosen = choose_setups(setup or [])
    if setup:
        for one in chosen:
            one.check()
    elif parity or seeds:
        for one in (one for one in chosen if not one.installed):
            say(f"{one.name}: not installed")
    well = _health(chosen) if not (parity or seeds) else True
    if seeds:
        well = _seeds(chosen) and well
    if parity:
        well = _parity(chosen, cases, start) and well
    if not well:
        raise typer.Exit(1)


def _health(setups: list[SetUp]) -> bool:
    from rich.markup import escape
    from rich.table import Table

    from convlstm.cli.output import console
    from convlstm.doctor.health import check_setups, installed

    versions = Table(box=None, show_header=False, pad_edge=False)
    for name, number in installed().items():
        versions.add_row(name, number)
    console.print(versions)
    table = Table("set-up", "runs as", "difference from the reference", "seconds", box=None, pad_edge=False)
    health = check_setups(setups)
    for one in health:
        difference = "not installed" if one.difference is None else f"{one.difference:.1e}"
        table.add_row(one.setup, escape(one.description), difference, f"{one.seconds:.3f}")
    console.print(table)
    return all(one.well for one in health if one.difference is not None)


def _seeds(setups: list[SetUp]) -> bool:
    from convlstm.cli.output import say
    from convlstm.conformance.drop_in import DOCUMENTS
    from convlstm.conformance.environments import run_task
    from convlstm.errors import DependencyError

    for number, title in DOCUMENTS.items():
        say(f"{number}  {title}")
    say(f"\n{'':4} {'set-up':<16} {'difference':>10} {'seconds':>8}  line, and what came")
    well = True
    for one in setups:
        try:
            rows = run_task(one, "drop_in") if one.installed else []
        except DependencyError as problem:
            say(f"{one.name}: {problem.received}")
            well = False
            continue
        for row in rows:
            well = well and row["difference"] is not None and row["difference"] <= 1e-5
            difference = "failed" if row["failure"] else f"{row['difference']:.1e}"
            came = row["failure"] or row["shapes"]
            say(f"{row['document']:4} {one.name:<16} {difference:>10} {row['seconds']:8.2f}  {row['line']}")
            say(f"{'':42}{came}")
    return well


def _parity(setups: list[SetUp], cases: int, start: int) -> bool:
    from rich.table import Table

    from convlstm.cli.output import console, say
    from convlstm.conformance.campaign import PAIR_TARGET, compare_all

    rows, pairs = compare_all(cases, start, [one for one in setups if one.installed], say)
    table = Table("set-up", "type", "cases", "values", "derivatives", "judged", "missed", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in rows:
        for label in dict.fromkeys([*row.value.get("missed", []), *row.derivative.get("missed", [])]):
            say(f"{row.setup}, {row.dtype} misses: {label}")
    worst = sorted(pairs, key=lambda pair: -pair.difference)
    for pair in worst:
        say(f"{pair.first} and {pair.second}: {pair.difference:.1e} of {PAIR_TARGET:.0e} in float32")
    return all(row.well for row in rows) and all(pair.well for pair in pairs)


def _cells(row: Row) -> tuple[str, ...]:
    if row.problem:
        return row.setup, row.dtype, "0", row.problem, "", "", ""
    missed = row.value["missed_count"] + row.derivative["missed_count"]
    value, derivative = f"{row.value['worst']:.1e}", f"{row.derivative['worst']:.1e}"
    return row.setup, row.dtype, str(row.count), value, derivative, str(row.derivative["judged"]), str(missed)
