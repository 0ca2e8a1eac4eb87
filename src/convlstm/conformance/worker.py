"""Tasks that run in the process of one framework: drop-in lines, and random cases."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.conformance.compare import CaseErrors, judge
from convlstm.conformance.drop_in import check
from convlstm.conformance.expectations import draw_cases, load_expectation
from convlstm.conformance.small_forecast import small_forecast
from convlstm.conformance.tolerances import TOLERANCES


def drop_in(frontend: str) -> list[dict[str, Any]]:
    """Run the drop-in lines of a framework."""
    rows = []
    for example in import_module(f"convlstm.conformance.drop_in_lines.{frontend}").EXAMPLES:
        done = check(example)
        shapes, difference = ("", None) if done.outcome is None else (done.outcome.shapes, done.outcome.difference)
        rows.append(
            {
                "project": example.project,
                "line": example.line,
                "shapes": shapes,
                "difference": difference,
                "failure": done.failure,
                "seconds": done.seconds,
            }
        )
    return rows


def compare_cases(
    frontend: str, *, dtype: str, start: int, count: int, folder: str, keep: str | None = None
) -> dict[str, Any]:
    """Run the cases of `draw_cases`; return their number, and the worst and median errors with their labels.

    The results of the reference are read from `folder`, where those of the framework are written under the name `keep`.
    """
    run = import_module(f"convlstm.conformance.adapters.{frontend}").run
    errors: list[CaseErrors] = []
    kept: dict[str, np.ndarray] = {}
    for name, case in draw_cases(start, count):
        expected = load_expectation(folder, name, case, dtype)
        results, gradients = run(expected.case, dtype, expected.factors)
        errors.append(judge(expected, results, gradients))
        kept |= {f"{name}:{key}": np.asarray(value) for key, value in results.items()}
    if keep is not None:
        np.savez(Path(folder) / keep, **kept)  # type: ignore[arg-type]
    return {"count": len(errors), **{part: _worst(errors, part, dtype) for part in ("value", "derivative")}}


def _worst(errors: list[CaseErrors], part: str, dtype: str) -> dict[str, Any]:
    judged = [case for case in errors if not np.isnan(getattr(case, part))]
    ranked = sorted(judged, key=lambda case: -getattr(case, part))
    limit = TOLERANCES[dtype][("value", "derivative").index(part)]
    missed = [case.label for case in ranked if getattr(case, part) > limit]
    return {
        "judged": len(judged),
        "worst": getattr(ranked[0], part) if ranked else 0.0,
        "median": float(np.median([getattr(case, part) for case in judged])) if judged else 0.0,
        "missed": missed[:5],
        "missed_count": len(missed),
        "label": ranked[0].label if ranked else "",
    }


def main() -> None:
    """Do what the first argument asks, and write the answer where it says."""
    request = json.loads(sys.argv[1])
    tasks: dict[str, Callable[..., Any]] = {
        "drop_in": drop_in,
        "compare_cases": compare_cases,
        "small_forecast": small_forecast,
    }
    task = tasks[request["task"]]
    Path(request["answer"]).write_text(json.dumps(task(request["frontend"], **request["arguments"])))


if __name__ == "__main__":
    main()
