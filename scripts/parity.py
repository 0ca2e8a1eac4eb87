"""Hold a framework's face to the reference over thousands of random configurations, values and derivatives.

Prints the worst errors and the configurations that made them; exits with 1 if a target of the contract is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from itertools import count, islice

import numpy as np

from convlstm.contract.cases import random_case
from convlstm.contract.forecast_cases import random_forecast_case
from convlstm.contract.parity import TARGETS, Found, compare


def main() -> int:
    """Run the comparison and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", default="torch", help="torch, keras, flax or mlx")
    parser.add_argument("--cases", type=int, default=2000, help="layers in float64; a fifth as many of the rest")
    parser.add_argument("--start", type=int, default=0, help="seed of the first")
    options = parser.parse_args()
    face = import_module(f"convlstm.{options.framework}.parity")
    missed = False
    for dtype, number in (("float64", options.cases), ("float32", options.cases // 5)):
        families = {
            "layer": (random_case(seed) for seed in count(options.start)),
            "forecaster": (random_forecast_case(seed) for seed in count(options.start)),
        }
        if hasattr(face, "fused_cases"):
            families["fused"] = face.fused_cases(options.start)
        for family, drawn in families.items():
            size = max(1, number if family == "layer" else number // 5)
            began = time.perf_counter()
            found = [compare(case, face.run, dtype) for case in islice(drawn, size)]
            missed |= _report(f"{options.framework} {family}", dtype, found, time.perf_counter() - began)
    return int(missed)


def _report(family: str, dtype: str, found: list[Found], seconds: float) -> bool:
    print(f"{family}, {dtype}: {len(found)} configurations in {seconds:.0f} s")
    missed = False
    for name, limit in zip(("value", "derivative"), TARGETS[dtype], strict=True):
        ranked = sorted(found, key=lambda f: -np.nan_to_num(getattr(f, name), nan=-1.0))
        judged = [getattr(f, name) for f in ranked if not np.isnan(getattr(f, name))]
        if not judged:
            continue
        over = sum(value > limit for value in judged)
        missed |= over > 0
        note = "" if len(judged) == len(found) else f" (of {len(judged)} judged)"
        print(f"  {name}: worst {judged[0]:.1e}, median {np.median(judged):.1e}, {over} over {limit:.0e}{note}")
        for item in ranked[: max(2, min(over, 20))]:
            print(f"    {getattr(item, name):.1e} {item.label}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
