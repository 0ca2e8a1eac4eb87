"""Runs of a study: every run is saved, and a study that is started again leaves out the runs that it has."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.irregular.contenders import CONTENDERS, STUDIED
from convlstm.files import write_atomic

Sums = dict[str, np.ndarray]


def add_options(parser: argparse.ArgumentParser, *, steps: int, horizon: int, output: str) -> None:
    """Add the options that the studies share."""
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=steps, help="training steps")
    parser.add_argument("--horizon", type=int, default=horizon, help="forecast frames")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help=f"default: {', '.join(STUDIED)}")
    parser.add_argument("--output", type=Path, default=Path(output), help="folder of the runs")


def run_all(
    options: argparse.Namespace, settings: dict[str, object], run: Callable[[str, int], Sums]
) -> dict[str, list[Sums]]:
    """Return the sums of each contender by seed, and save each run in the folder.

    Args:
        options: Seeds, contenders and folder.
        settings: All that the results depend on; a folder with other settings is refused.
        run: Trains a contender with a seed and returns its sums.
    """
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder / "settings.json", settings)
    names: Sequence[str] = options.contender or STUDIED
    results: dict[str, list[Sums]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            path = folder / f"{name.replace(' ', '_')}_{seed}.npz"
            if not path.exists():
                started = time.monotonic()
                sums = run(name, seed)
                write_atomic(path, lambda unfinished, arrays=sums: save(unfinished, arrays))
                print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
            with np.load(path, allow_pickle=False) as file:
                results[name].append(dict(file))
    return results


def check_settings(path: Path, settings: dict[str, object]) -> None:
    """Write the settings of a new folder, or end the program if those of the folder differ."""
    text = json.dumps(settings, indent=1, sort_keys=True)
    if not path.exists():
        path.write_text(text)
    elif path.read_text() != text:
        raise SystemExit(f"error: {path} holds other settings\nhint: Pass another folder as `--output`.")


def save(path: Path, arrays: Sums) -> None:
    """Write arrays in NumPy's format."""
    with path.open("wb") as file:
        np.savez(file, **arrays)
