"""The table of a measurement on an accelerator, in Markdown."""

from __future__ import annotations

from typing import Any

NAMES = {
    "common": "common cell",
    "common-last": "common cell, channels last",
    "common graph": "common cell, CUDA graph",
    "common compiled": "common cell, `torch.compile`",
    "ours graph": "ours, CUDA graph",
    "linen": "flax.linen.ConvLSTMCell",
    "keras xla": "keras.layers.ConvLSTM, XLA",
    "ours xla": "ours, XLA",
}


def table(result: dict[str, Any]) -> str:
    """Return a page with the times, the values and what was left out."""
    machine = ", ".join(f"{name} {value}" for name, value in result.get("machine", {}).items())
    lines = [f"# Accelerator: {machine or result['device']}", ""]
    if result["quick"]:
        lines += ["Tiny cases, to test the script: the times mean nothing.", ""]
    rows = result["rows"]
    lines += ["| case | work | precision | implementation | time | peak memory | ours / other |", "|" + "---|" * 7]
    lines += [_time(row, rows) for row in rows if "median" in row]
    lines += ["", "Errors of ours next to float64 on the CPU.", "", "| case | precision | outputs | gradients |"]
    lines += ["|" + "---|" * 4]
    for row in rows:
        if "error" in row:
            figures = f"{row['error']:.1e} | {row['gradient_error']:.1e}"
            lines.append(f"| {row['case']} | {row['precision']} | {figures} |")
    left_out = [row for row in rows if "left_out" in row]
    if left_out:
        lines += ["", "Not measured:", ""]
        lines += [f"- {' '.join(_place(row))}: {row['left_out']}" for row in left_out]
    return "\n".join(lines) + "\n"


def _place(row: dict[str, Any]) -> list[str]:
    return [row[key] for key in ("group", "case", "work", "precision", "contender") if key in row]


def _time(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    place = {key: row[key] for key in ("case", "work", "precision")}
    ours = [
        other["median"]
        for other in rows
        if other["group"] == "torch" and other.get("contender") == "ours" and "median" in other
        if all(other[key] == value for key, value in place.items())
    ]
    name = NAMES.get(row["contender"], row["contender"])
    if row["group"] in ("flax", "keras") and row["contender"].startswith("ours"):
        name = f"{name}, {row['group']}"
    least, median, most = (f"{row[key] * 1e3:.3g}" for key in ("least", "median", "most"))
    memory = f"{row['bytes'] / 1e6:.0f} MB" if "bytes" in row else ""
    ratio = f"{ours[0] / row['median']:.2f}" if ours else ""
    return f"| {' | '.join(place.values())} | {name} | {median} ms ({least} to {most}) | {memory} | {ratio} |"
