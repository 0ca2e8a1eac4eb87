"""`python -m benchmarks.torture [NAMES] --minutes M --output FILE.json`: run proofs, and print a line for each."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.torture.proof import Options, Proof, Result

MODULES = ("kills", "calls", "flips", "fuzzing", "machines", "threads", "concurrency", "long_runs")


def proofs() -> dict[str, Proof]:
    """Return every proof by its name, such as `kills.torch`."""
    return {
        f"{module}.{name}": proof
        for module in MODULES
        for name, proof in import_module(f"benchmarks.torture.{module}").PROOFS.items()
    }


def selected(names: Sequence[str]) -> dict[str, Proof]:
    """Return the proofs with these names, or whose module has one of them."""
    every = proofs()
    unknown = [name for name in names if name not in every and name not in MODULES]
    if unknown:
        raise SystemExit(f"error: {unknown[0]}: expected one of {', '.join([*MODULES, *every])}")
    return {name: proof for name, proof in every.items() if not names or {name, name.partition(".")[0]} & set(names)}


def line(name: str, proof: Proof, result: Result, seed: int, seconds: float) -> str:
    """Return the line of a proof."""
    if result.skipped:
        return f"skipped  {name}: {result.skipped}"
    figures = "".join(f", {value} {key}" for key, value in result.figures.items())
    state = "FAILED" if result.failed else "ok"
    done = f"{result.count} {proof.unit}, {result.failed} failures{figures}"
    return f"{state:8} {name}: {done}, seed {seed}, {seconds:.0f} s"


def add_to(path: Path, entries: dict[str, Any]) -> None:
    """Add results to a file, in place of earlier ones of the same proofs."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    result.add_argument("names", nargs="*", metavar="NAME", help="a module or a proof, such as kills or kills.torch")
    result.add_argument("--minutes", type=float, default=float("inf"), help="time for all proofs together")
    result.add_argument("--count", type=int, help="count of each proof; by default its full count")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--output", type=Path, help="JSON file, to which the results are added")
    result.add_argument("--list", action="store_true", help="print the proofs with their full counts")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proofs, and return 1 if any failed."""
    options = parser().parse_args(arguments)
    chosen = selected(options.names)
    if options.list:
        for name, proof in chosen.items():
            print(f"{name}: {proof.count} {proof.unit}")
        return 0
    words = sys.argv[1:] if arguments is None else arguments
    end = time.monotonic() + 60 * options.minutes
    has_failed = False
    for number, (name, proof) in enumerate(chosen.items()):
        started = time.monotonic()
        share = max(end - started, 0.0) / (len(chosen) - number)
        work = Path(tempfile.mkdtemp(prefix="convlstm-torture-"))
        try:
            result = proof.run(Options(work, options.count or proof.count, options.seed, started + share))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if not result.count and not result.skipped:
            result.fail("nothing was done in the time")
        seconds = time.monotonic() - started
        has_failed |= bool(result.failed)
        print(line(name, proof, result, options.seed, seconds), flush=True)
        for text in result.failures:
            print(f"         {text}", flush=True)
        if options.output:
            about = {"unit": proof.unit, "seed": options.seed, "seconds": round(seconds, 1)}
            about |= {
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "command": f"python -m benchmarks.torture {' '.join(words)}",
            }
            about |= {"python": platform.python_version(), "system": platform.system()}
            options.output.parent.mkdir(parents=True, exist_ok=True)
            add_to(options.output, {name: asdict(result) | about})
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
