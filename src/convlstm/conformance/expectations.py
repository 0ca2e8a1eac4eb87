"""The reference's results on random cases, computed once and kept for the process of every framework."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convlstm.conformance.compare import AnyCase, Expectation, expect, rounded
from convlstm.conformance.derivatives import loss_weights
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import common_case, random_case


def draw_cases(start: int, count: int) -> Iterator[tuple[str, AnyCase]]:
    """Yield `count` random layers, and a fifth as many common cells and forecasters, with a name for each."""
    for seed in range(start, start + count):
        yield f"layer{seed}", random_case(seed)
    for seed in range(start, start + max(1, count // 5)):
        yield f"common{seed}", common_case(seed)
    for seed in range(start, start + max(1, count // 5)):
        yield f"forecaster{seed}", random_forecast_case(seed)


def keep_expectations(folder: str | Path, start: int, count: int, dtype: str) -> None:
    """Compute the results of the reference for the cases, rounded to a type, and save them."""
    for name, case in draw_cases(start, count):
        expected = expect(case, dtype)
        results = {f"result.{key}": value for key, value in expected.results.items()}
        np.savez(_path(folder, name, dtype), derivatives=expected.derivatives, **results)  # type: ignore[arg-type]


def load_expectation(folder: str | Path, name: str, case: AnyCase, dtype: str) -> Expectation:
    """Return the saved results of a case."""
    with np.load(_path(folder, name, dtype), allow_pickle=False) as kept:
        derivatives = kept["derivatives"]
        results = {key.removeprefix("result."): kept[key] for key in kept.files if key.startswith("result.")}
    case = rounded(case, dtype)
    return Expectation(case, dtype, results, loss_weights(case, results), derivatives)


def _path(folder: str | Path, name: str, dtype: str) -> Path:
    return Path(folder) / f"{name}.{dtype}.npz"
