"""A long training: memory and open files stay the same, and the run is intact at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.torture.inputs import TRAINING, drafts, make_rain
from benchmarks.torture.proof import Options, Proof, Result
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights.checkpoint import check_intact

WINDOWS, BATCH = 12, 2  # windows of the two training days of `make_rain`, and windows in a step
STEPS = WINDOWS // BATCH  # of one epoch
MOST_GROWTH = 0.03  # of the resident memory, from the second tenth of the epochs to the last


def train_epochs(options: Options) -> Result:
    """Train for many epochs with a save after each one, and compare memory and open files near start and end."""
    if not Path("/proc/self/status").exists():
        return Result(skipped="needs /proc")
    make_rain(options.work / "rain.nc")
    words = [sys.executable, "-m", "convlstm", "train", "rain.nc", "-o", "run", *TRAINING, "--threads", "1", "--quiet"]
    steps = {"steps": STEPS * options.count, "validate_every": STEPS, "patience": options.count}
    words += [part for key, value in steps.items() for part in ("--set", f"training.{key}={value}")]
    log, samples = options.work / "run" / "log.jsonl", []
    with subprocess.Popen(words, cwd=options.work, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not options.is_over:
            if log.exists() and (epoch := log.read_bytes().count(b"\n")):
                samples.append((epoch, *_usage(process.pid)))
            time.sleep(0.02)
        process.kill()
        error = process.stderr.read() if process.stderr else ""
    result = Result(count=log.read_bytes().count(b"\n") if log.exists() else 0)
    if options.is_over:
        return result  # the time has ended before the training, and there is no late part to compare
    if process.returncode or result.count != options.count:
        result.fail(f"{result.count} epochs, exit code {process.returncode}, {error.strip()[:200]}")
        return result
    _compare(samples, result)
    for path in RunFolder(options.work / "run").checked_files:
        check_intact(path)
    if left := drafts(options.work):
        result.fail(f"left at the end: {', '.join(left)}")
    return result


def _usage(process: int) -> tuple[float, int]:
    """Return the resident memory of a process in MiB, and the number of its open files; zeros if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        files = len(list(Path(f"/proc/{process}/fd").iterdir()))
    except OSError:
        return 0.0, 0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0")
    return int(line.split()[1]) / 1024, files


def _compare(samples: list[tuple[int, float, int]], result: Result) -> None:
    """Compare the second tenth of the epochs with the last one."""
    parts = {"early": (0.1, 0.2), "late": (0.9, 1.0)}
    memory, files = {}, {}
    for name, (first, last) in parts.items():
        chosen = [it for it in samples if first * result.count <= it[0] <= last * result.count and it[1]]
        if not chosen:
            result.fail(f"no {name} sample of the memory")
            return
        memory[name], files[name] = median(it[1] for it in chosen), max(it[2] for it in chosen)
    result.figures = {
        "MiB early": round(memory["early"], 1),
        "MiB late": round(memory["late"], 1),
        "open files early": files["early"],
        "open files late": files["late"],
    }
    if memory["late"] > memory["early"] * (1 + MOST_GROWTH):
        result.fail(f"the memory grew from {memory['early']:.1f} to {memory['late']:.1f} MiB")
    if files["late"] > files["early"]:
        result.fail(f"the open files grew from {files['early']} to {files['late']}")


PROOFS = {"epochs": Proof(train_epochs, 100, "epochs")}
