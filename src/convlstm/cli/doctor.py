"""`convlstm doctor`."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Show what is installed, and whether each framework computes what the contract says.

    Ends with exit code 1 if an installed framework fails, or is further from the reference than 1e-5.

    Example: `convlstm doctor`
    """
    from rich.table import Table

    from convlstm.cli.output import console
    from convlstm.nowcast.health import check_frameworks, installed

    versions = Table(box=None, show_header=False, pad_edge=False)
    for name, number in installed().items():
        versions.add_row(name, number)
    console.print(versions)
    table = Table("framework", "runs as", "difference from the reference", "seconds", box=None, pad_edge=False)
    health = check_frameworks()
    for one in health:
        difference = "not installed" if one.difference is None else f"{one.difference:.1e}"
        table.add_row(one.framework, one.description, difference, f"{one.seconds:.3f}")
    console.print(table)
    if any(one.difference is not None and not one.well for one in health):
        raise typer.Exit(1)
