"""Put the tables and the plot of a measurement into docs/benchmarks/speed.md.

python benchmarks/speed/table.py [--input docs/benchmarks/speed.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NAMES = {
    "ours-python": "ours without convlstm-native",
    "common": "common cell",
    "common-last": "common cell, channels last",
    "common-compiled": "common cell, compiled",
    "hoisted": "common cell, input convolution outside the loop",
    "hoisted-compiled": "the same, compiled",
    "ours": "ours, not compiled",
    "ours-compiled": "ours, compiled",
    "keras": "keras.layers.ConvLSTM",
    "linen": "flax.linen.ConvLSTMCell",
    "haiku": "haiku.Conv2DLSTM",
    "plain": "common cell",
    "floor": "its convolutions alone",
}
OTHERS = ("common", "common-last", "keras", "linen", "haiku", "plain")
SHOWN = (
    ("torch", "wide", "PyTorch, wide"),
    ("torch", "paper", "PyTorch, paper"),
    ("torch", "openstl", "PyTorch, openstl"),
    ("torch", "first", "PyTorch, first"),
    ("keras-tensorflow", "wide", "Keras on TensorFlow, wide"),
    ("keras-torch", "wide", "Keras on PyTorch, wide"),
    ("keras-jax", "small", "Keras on JAX, small"),
    ("flax", "small", "Flax, small"),
    ("mlx", "small", "MLX, small"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=DOCS / "speed.json")
    options = parser.parse_args()
    result = json.loads(options.input.read_text())
    page = DOCS / "speed.md"
    before, _, rest = page.read_text().partition(START)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{START}\n\n{tables(result)}\n{END}{after}")
    plot(result["rows"], DOCS / "speed.png")


def tables(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [f"{machine['processor']}, {machine['threads']} threads, Python {machine['python']}; {versions}.", ""]
    for title, works in (("Time", ("train", "forward")), ("Memory of a training step", ("memory",))):
        rows = [row for row in result["rows"] if row["work"] in works]
        lines += [f"### {title}", "", header(title), "|" + "---|" * 7]
        lines += [cells(row, result["rows"]) for row in sorted(rows, key=lambda row: works.index(row["work"]))]
        lines.append("")
    return "\n".join(lines)


def header(title: str) -> str:
    return f"| group | case | {'work' if title == 'Time' else ''} | compared with | ours | other | ours / other |"


def cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    place = ("group", "case", "work")
    if "contender" in row and "stopped" in row:
        return f"| | | | {NAMES[row['contender']]} | | over {row['stopped']:.0f} s | **at most {row['ratio']:.3f}** |"
    if "stopped" in row:
        return f"| {row['group']} | {row['case']} | {row['work']} | | | over {row['stopped']:.0f} s | |"
    first = next(other for other in rows if all(other[key] == row[key] for key in place))
    kind, _, precision = row["contender"].partition(" ")
    if row is first and sum(all(other[key] == row[key] for key in place) for other in rows) > 1:
        return f"| {row['group']} | {row['case']} | {row['work']} | **ours** | {figure(row)} | | |"
    if row is first:
        return f"| {row['group']} | {row['case']} | {row['work']} | (alone) | {figure(row)} | | |"
    return f"| | | | {NAMES[kind]} {precision} | | {figure(row)} | **{row['ratio']:.2f}** |"


def figure(row: dict[str, Any]) -> str:
    if "bytes" in row:
        return f"{row['bytes'] / 1e6:.0f} MB"
    scale, unit = (1.0, "s") if row["median"] >= 1.0 else (1e3, "ms")
    median, least, most = (f"{row[name] * scale:.3g}" for name in ("median", "least", "most"))
    return f"{median} {unit} ({least} to {most})"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratio to the fastest other implementation for one training step; readable at 700 pixels."""
    from matplotlib.figure import Figure

    labels, ratios = [], []
    for group, case, label in SHOWN:
        compared = [
            row["ratio"]
            for row in rows
            if (row["group"], row["case"], row["work"]) == (group, case, "train")
            and "ratio" in row
            and row["contender"].partition(" ")[0] in OTHERS
        ]
        if compared:
            labels.append(label)
            ratios.append(max(compared))
    drawing = Figure(figsize=(7, 0.42 * len(labels) + 1.1), layout="constrained")
    axes = drawing.subplots()
    axes.bar_label(axes.barh(labels, ratios, color="tab:blue"), fmt="%.2f", padding=3, fontsize=11)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xlim=(0, 1.1))
    axes.set_xlabel("time of a training step, ours divided by the other's", fontsize=11)
    axes.invert_yaxis()
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
