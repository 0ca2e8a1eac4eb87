"""Compare bfloat16 values and gradients with the float64 reference, in every framework, over random layers.

    python benchmarks/low_precision.py --count 2000 torch keras-torch keras-tensorflow mlx
    python benchmarks/low_precision.py --count 300 keras-jax flax

The inputs and weights are rounded to bfloat16 first, and the reference computes from the rounded values. Two of five
layers are sampled from all options. The other three belong to families in which convolutions of other libraries are
wrong on processors with AMX: one output column under a stride, frames of depth 1, or odd numbers of channels with a
dilation or groups. Each layer runs twice, and both runs must give the same bits. The script prints a table and the
worst cases.

Gradients are compared element by element. The reference's gradients, by complex step, would take days. PyTorch's
float64 gradients replace them, after their derivatives along four directions agreed with the reference to 1e-10.

The limit is 5e-2 · max(1, largest value) for each array. Let m be the change of the float64 result if weights and
inputs change at random by one rounding of bfloat16 (2^-8 of each). The limit is 8 m if that is larger. At the kinks of
relu and hard sigmoid, or with a growing unbounded activation, no bfloat16 computation can be more accurate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.conformance import compare
from convlstm.conformance.derivatives import loss_weights
from convlstm.conformance.environments import ENVIRONMENTS
from convlstm.conformance.narrow_layers import family_of, narrow_case
from convlstm.spec.options import ConvLSTMSpec

TARGET = 5e-2


def expect(folder: str, seed: int) -> None:
    """Save the results of the reference for a case, and gradients that agree with the reference."""
    from convlstm.conformance.adapters.torch import run

    expected = compare.expect(narrow_case(seed), "bfloat16")
    results, gradients = run(expected.case, "float64", expected.factors)
    found = compare.judge(expected, results, gradients)
    assert found.value < 1e-11, found
    assert found.derivative < 1e-10, found
    named = {f"result.{key}": value for key, value in expected.results.items()}
    named["change"] = np.array(change_by_rounding(expected, gradients))
    named |= {f"gradient.{key}": value for key, value in gradients.items()}
    np.savez(Path(folder) / f"{seed}.npz", **named)  # type: ignore[arg-type]


def has_kinks(spec: ConvLSTMSpec) -> bool:
    """Return whether an activation of the layer has a gradient that jumps."""
    return spec.recurrent_activation != "sigmoid" or "relu" in (spec.activation, spec.duration_activation)


def change_by_rounding(expected: compare.Expectation, gradients: Mapping[str, Any]) -> tuple[float, float]:
    """Return the largest change of results and gradients by one rounding of weights and inputs, over random samples."""
    from convlstm.conformance.adapters.torch import run

    random, largest = np.random.default_rng(0), [0.0, 0.0]
    for _ in range(48 if has_kinks(expected.case.spec) else 12):
        arrays = {
            name: array if name.startswith(compare.TIMES) else array * (1 + random.uniform(-1, 1, array.shape) * 2**-8)
            for name, array in expected.case.arrays.items()
        }
        found = run(replace(expected.case, arrays=arrays), "float64", expected.factors)
        for n, (part, wanted) in enumerate(zip(found, (expected.results, gradients), strict=True)):
            largest[n] = max(largest[n], *(compare.error(part[name], wanted[name]) for name in wanted))
    return largest[0], largest[1]


def expectations(folder: str, seeds: range) -> Iterator[tuple[Any, ...]]:
    """Yield seed, family, case, results, gradients, and the limits of both."""
    for seed in seeds:
        family, case = family_of(seed), narrow_case(seed)
        with np.load(Path(folder) / f"{seed}.npz", allow_pickle=False) as saved:
            results = {key[7:]: saved[key] for key in saved.files if key.startswith("result.")}
            gradients = {key[9:]: saved[key] for key in saved.files if key.startswith("gradient.")}
            limits = [max(TARGET, 8 * m) for m in saved["change"]]
        yield seed, family, compare.rounded(case, "bfloat16"), results, gradients, limits


def work(frontend: str, folder: str, start: int, count: int, answer: str) -> None:
    """Compare one framework with the saved results, in this process."""
    run = import_module(f"convlstm.conformance.adapters.{frontend}").run
    rows = []
    for seed, family, case, expected, expected_gradients, limits in expectations(folder, range(start, start + count)):
        factors = loss_weights(case, expected)
        (results, gradients), again = (run(case, "bfloat16", factors) for _ in range(2))
        value = max(compare.error(results[name], wanted) for name, wanted in expected.items())
        gradient = max(compare.error(gradients[name], wanted) for name, wanted in expected_gradients.items())
        pairs = [(results[n], again[0][n]) for n in results] + [(gradients[n], again[1][n]) for n in gradients]
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
        rows.append([seed, family, value, gradient, same, compare.describe(case), *limits])
    Path(answer).write_text(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environments", nargs="+", choices=[environment.name for environment in ENVIRONMENTS])
    parser.add_argument("--count", type=int, default=2000, help="layers per framework")
    parser.add_argument("--start", type=int, default=0, help="seed of the first layer")
    parser.add_argument("--folder", help="where the reference's results are saved for another run")
    arguments = parser.parse_args()
    folder = arguments.folder or tempfile.mkdtemp()
    Path(folder).mkdir(exist_ok=True)
    seeds = range(arguments.start, arguments.start + arguments.count)
    missing = [seed for seed in seeds if not (Path(folder) / f"{seed}.npz").exists()]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(expect, folder), missing, chunksize=8))
    print("| framework | layers | worst value | worst gradient | above 5e-2 | above the limit | not the same twice |")
    print("|---|---|---|---|---|---|---|")
    for environment in (environment for environment in ENVIRONMENTS if environment.name in arguments.environments):
        answer = Path(folder) / f"{environment.name}.json"
        task = (environment.frontend, folder, seeds.start, len(seeds), str(answer))
        call = f"import low_precision; low_precision.work(*{task!r})"
        variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", **environment.variables}
        subprocess.run([sys.executable, "-c", call], env=variables, cwd=Path(__file__).parent, check=True)
        report(environment.name, json.loads(answer.read_text()))


def report(name: str, rows: list[list[Any]]) -> None:
    """Print a row of the table, and the cases that exceed a limit."""
    above_target = [row for row in rows if max(row[2:4]) > TARGET]
    missed = [row for row in rows if row[2] > row[6] or row[3] > row[7]]
    not_repeatable = [row for row in rows if not row[4]]
    value, gradient = (max((row[n] for row in rows if row[n + 4] == TARGET), default=0.0) for n in (2, 3))
    counts = f"{len(above_target)} | {len(missed)} | {len(not_repeatable)} |"
    print(f"| {name} | {len(rows)} | {value:.1e} | {gradient:.1e} | {counts}", flush=True)
    for row in sorted(missed, key=lambda row: -row[2] - row[3])[:12] + not_repeatable[:5]:
        print(
            f"    {row[1]}: value {row[2]:.1e} ({row[6]:.1e}), gradient {row[3]:.1e} ({row[7]:.1e}): {row[5]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
