"""The tables of the results, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def tables(results: Mapping[str, Any]) -> str:
    """Return the tables of the parts that were measured.

    Example:
        >>> print(tables({"bandwidth": [{"processes": 2, "seconds": {"8": 1e-4, "2097152": 2.1e-3}}]}))
        | processes | sum of 8 bytes, ms | sum of 2.1 MB, ms |
        |---|---|---|
        | 2 | 0.10 | 2.10 |
    """
    parts = [equality_table(results["equality"])] if "equality" in results else []
    parts += [scaling_table(results[part]) for part in ("weak", "strong") if part in results]
    if "bandwidth" in results:
        lines = (
            (str(row["processes"]), *(f"{1e3 * seconds:.2f}" for seconds in row["seconds"].values()))
            for row in results["bandwidth"]
        )
        parts.append(_table(("processes", "sum of 8 bytes, ms", "sum of 2.1 MB, ms"), lines))
    return "\n\n".join(parts)


def equality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the largest difference of the losses from one process of the same framework, and from PyTorch's."""
    whole = {row["framework"]: np.array(row["losses"]) for row in rows if row["name"] == "one process"}
    lines = []
    for row in rows:
        losses = np.array(row["losses"])
        difference = float(np.max(np.abs(losses - whole[row["framework"]])))
        first = float(np.max(np.abs(losses - whole["torch"]))) if "torch" in whole else float("nan")
        is_one = row["name"] == "one process"
        sent = "–" if is_one else f"{row['sent'] / 1e3:.1f}"
        lines.append((row["framework"], row["name"], "–" if is_one else f"{difference:.1e}", f"{first:.1e}", sent))
    header = ("framework", "devices", "from one process", "from PyTorch", "kB sent per device and step")
    return _table(header, lines)


def scaling_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the time of a step, the windows in a second and their ratio to N times those of one process."""
    single = {row["framework"]: row for row in rows if row["processes"] == 1}
    lines = []
    for row in rows:
        alone, count = single[row["framework"]], row["processes"]
        windows = row["work"]["windows"]
        rate, rate_alone = windows / row["seconds"], alone["work"]["windows"] / alone["seconds"]
        low, high = (1e3 * value for value in row["quartiles"])
        lines.append(
            (
                row["name"],
                str(count),
                str(windows),
                f"{1e3 * row['seconds']:.0f} ({low:.0f} to {high:.0f})",
                f"{rate:.1f}",
                f"{rate / rate_alone / count:.2f}",
                "–" if count == 1 or row["kind"] == "independent" else f"{row['sent'] / 1e6:.2f}",
            )
        )
    header = ("strategy", "processes", "windows", "step, ms (quartiles)", "windows per s", "efficiency", "MB sent")
    return _table(header, lines)


def _table(header: Sequence[str], lines: Any) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(("| " + " | ".join(row) + " |").replace("| --- ", "|---").replace("--- |", "---|") for row in rows)
