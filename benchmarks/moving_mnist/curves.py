"""Draw the loss curves of runs: `python -m benchmarks.moving_mnist.curves RESULT.json ... --output curves.png`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOSSES = {"openstl": "mean squared error", "shi": "cross-entropy"}


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel for each result: the mean loss since the point before, by step."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 2.6 * len(results)), layout="constrained")
    panels = drawing.subplots(len(results), squeeze=False)[:, 0]
    for axes, result in zip(panels, results, strict=True):
        steps, losses = zip(*result["loss_curve"], strict=True)
        axes.plot(steps, losses, color="tab:blue")
        full = result["full_steps"]
        axes.set_title(f"{result['protocol']}: {result['steps']} of {full:,} steps", loc="left", fontsize=11)
        axes.set_ylabel(LOSSES[result["protocol"]], fontsize=11)
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("training step", fontsize=11)
    drawing.savefig(path, dpi=100)


def main() -> None:
    """Read the results of `benchmarks.moving_mnist.run`, and draw their curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("moving_mnist.png"))
    options = parser.parse_args()
    draw([json.loads(path.read_text()) for path in options.results], options.output)


if __name__ == "__main__":
    main()
