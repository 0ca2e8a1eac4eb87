"""`convlstm doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convlstm.conformance.campaign import Row
    from convlstm.conformance.environments import Environment


def doctor(
    conformance: Annotated[
        bool,
        typer.Option(
            "--conformance", metavar="", help="Compare every framework with the float64 reference over random layers."
        ),
    ] = False,
    drop_in: Annotated[
        bool,
        typer.Option(
            "--drop-in",
            metavar="",
            help="Check that lines copied from other ConvLSTM projects run with this package.",
        ),
    ] = False,
    cases: Annotated[
        int, typer.Option(min=1, help="N random layers for --conformance, plus N/5 standard cells and N/5 forecasters.")
    ] = 20,
    start: Annotated[int, typer.Option(min=0, help="Seed of the first random layer.")] = 0,
    framework: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this framework, such as torch or keras-jax. Repeat for more."),
    ] = None,
) -> None:
    """Show what is installed, and the difference of each framework from the float64 reference.

    Each framework runs in its own process: PyTorch, Keras on each backend, Flax, MLX. The exit code is 1 if an
    installed framework fails or exceeds its tolerance.

    Example: `convlstm doctor --drop-in --framework torch`
    """
    from convlstm.cli.output import say
    from convlstm.conformance.environments import choose_environments

    environments = choose_environments(framework or [])
    if framework:
        for environment in environments:
            environment.check()
    elif conformance or drop_in:
        for environment in environments:
            if not environment.installed:
                say(f"{environment.name}: not installed")
    passed = True
    if not (conformance or drop_in):
        passed = _show_health(environments)
    if drop_in:
        passed = _run_drop_in_lines(environments) and passed
    if conformance:
        passed = _compare_with_reference(environments, cases, start) and passed
    if not passed:
        raise typer.Exit(1)


def _show_health(environments: list[Environment]) -> bool:
    from rich.markup import escape
    from rich.table import Table

    from convlstm.cli.output import console
    from convlstm.doctor.health import check_environments, installed

    versions = Table(box=None, show_header=False, pad_edge=False)
    for name, number in installed().items():
        versions.add_row(name, number)
    console.print(versions)
    table = Table("framework", "runs as", "difference from the reference", "seconds", box=None, pad_edge=False)
    health = check_environments(environments)
    for row in health:
        difference = "not installed" if row.difference is None else f"{row.difference:.1e}"
        table.add_row(row.environment, escape(row.description), difference, f"{row.seconds:.3f}")
    console.print(table)
    return all(row.well for row in health if row.difference is not None)


def _run_drop_in_lines(environments: list[Environment]) -> bool:
    from convlstm.cli.output import say
    from convlstm.conformance.environments import run_task
    from convlstm.errors import DependencyError

    say(f"{'project':<24} {'framework':<16} {'difference':>10} {'seconds':>8}  line and shapes")
    passed = True
    for environment in environments:
        try:
            rows = run_task(environment, "drop_in") if environment.installed else []
        except DependencyError as problem:
            say(f"{environment.name}: {problem.received}")
            passed = False
            continue
        for row in rows:
            passed = passed and row["difference"] is not None and row["difference"] <= 1e-5
            difference = "failed" if row["failure"] else f"{row['difference']:.1e}"
            say(f"{row['project']:<24} {environment.name:<16} {difference:>10} {row['seconds']:8.2f}  {row['line']}")
            say(f"{'':62}{row['failure'] or row['shapes']}")
    return passed


def _compare_with_reference(environments: list[Environment], cases: int, start: int) -> bool:
    from rich.table import Table

    from convlstm.cli.output import console, say
    from convlstm.conformance.campaign import PAIR_TARGET, compare_all

    rows, pairs = compare_all(cases, start, [item for item in environments if item.installed], say)
    table = Table("framework", "type", "cases", "values", "derivatives", "judged", "missed", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in rows:
        for label in dict.fromkeys([*row.value.get("missed", []), *row.derivative.get("missed", [])]):
            say(f"{row.environment}, {row.dtype} misses: {label}")
    for pair in sorted(pairs, key=lambda pair: -pair.difference):
        say(f"{pair.first} and {pair.second}: {pair.difference:.1e} of {PAIR_TARGET:.0e} in float32")
    return all(row.well for row in rows) and all(pair.well for pair in pairs)


def _cells(row: Row) -> tuple[str, ...]:
    if row.problem:
        return row.environment, row.dtype, "0", row.problem, "", "", ""
    missed = row.value["missed_count"] + row.derivative["missed_count"]
    value, derivative = f"{row.value['worst']:.1e}", f"{row.derivative['worst']:.1e}"
    return row.environment, row.dtype, str(row.count), value, derivative, str(row.derivative["judged"]), str(missed)
