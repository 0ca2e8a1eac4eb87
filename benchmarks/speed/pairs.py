"""Compare two implementations in one process, step by step in turns.

    python -m benchmarks.speed.pairs ours-compiled ours --case wide --case paper --pairs 14

The figure is the time of the first divided by that of the second, in pairs of neighbouring steps: the median of the
pairs. Implementations and cases are those of `benchmarks.speed` for PyTorch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from benchmarks.speed import in_torch
from benchmarks.speed.cases import CASES


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument("--work", default="train", choices=("train", "forward"))
    parser.add_argument("--pairs", type=int, default=14)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    for case in options.case or ["wide"]:
        kinds = (options.first, options.second)
        runs = [in_torch.build(kind, CASES[case], options.work, options.threads) for kind in kinds]
        ratios = compare(runs, options.pairs)
        print(f"{case}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


def compare(runs: list[Callable[[], None]], pairs: int) -> list[float]:
    """Return the time of the first run divided by that of the second, for each pair; their order alternates."""
    for run in runs * 2:
        run()
    ratios = []
    for pair in range(pairs):
        seconds = [0.0, 0.0]
        for place in (0, 1) if pair % 2 else (1, 0):
            begin = time.perf_counter()
            runs[place]()
            seconds[place] = time.perf_counter() - begin
        ratios.append(seconds[0] / seconds[1])
    return ratios


if __name__ == "__main__":
    main()
