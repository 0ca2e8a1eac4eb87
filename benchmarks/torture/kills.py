"""Kill a training at file events and at random times, and resume it: the files are those of a run without a kill."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.torture.commands import Commands, Fault, compiler, serving
from benchmarks.torture.inputs import FRAMEWORK_MODULES, LIBRARIES, TRAINING, drafts, make_rain, run_contents
from benchmarks.torture.proof import Options, Proof, Result
from convlstm.errors import ConvLSTMError
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights.checkpoint import check_intact

FULL_COUNT = {"torch": 200, "keras": 50, "flax": 50, "mlx": 50}
BY_TIME = 3  # one kill in so many is at a random time, and the others are at a random call


def kill_loop(options: Options, framework: str) -> Result:
    """Kill trainings until the count is reached; after each kill read the files, and after each run compare them."""
    result = Result(figures={"runs": 0, "at file events": 0, "at random times": 0, "loads": 0, "drafts swept": 0})
    work, random = options.work, options.random
    make_rain(work / "rain.nc")
    quick = {
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),  # XLA compiles once and not after every kill
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    has_faults = compiler() is not None
    modules = (*LIBRARIES, FRAMEWORK_MODULES[framework])
    with serving(work / "server", *modules, faults=has_faults, **quick) as commands:
        _train(commands, work / "warm", framework)
        whole, calls, seconds = _train(commands, work / "whole", framework)
        kills = iter(options.numbers())
        number = next(kills, None)
        while number is not None:
            folder = work / f"run{result.figures['runs']}"
            fault, kill_after = None, None
            if has_faults and number % BY_TIME:
                fault = Fault(int(random.integers(1, calls + 1)), "kill")
            else:
                kill_after = float(random.uniform(0, seconds))
            outcome = commands.run(_words(framework), _made(folder), fault, kill_after=kill_after)
            if outcome.code == -signal.SIGKILL:
                result.count += 1
                result.add("at file events" if fault else "at random times")
                _check_after_kill(folder / "run", result, outcome.hit or "a random time")
                number = next(kills, None)
                continue
            _check_end(folder, outcome.problems, whole, result)
        outcome = commands.run(_words(framework), _made(folder))
        _check_end(folder, outcome.problems, whole, result)
    return result


def _words(framework: str) -> list[object]:
    options = ("--threads", "1", "--framework", framework, "--resume")
    return ["train", "../rain.nc", "-o", "run", *TRAINING, *options]


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _train(commands: Commands, folder: Path, framework: str) -> tuple[dict[str, bytes], int, float]:
    """Train without a kill; return the files, the number of calls and the time."""
    started = time.monotonic()
    outcome = commands.run(_words(framework), _made(folder), Fault() if compiler() else None)
    if outcome.code:
        raise RuntimeError(outcome.err)
    return run_contents(folder / "run"), max(outcome.calls, 1), time.monotonic() - started


def _check_after_kill(run: Path, result: Result, place: str) -> None:
    """Count a model or state that cannot be read, and a temporary folder that the next command has to remove."""
    if not run.is_dir():
        return
    if drafts(run):
        result.add("drafts swept")
    folder = RunFolder(run)
    for path in folder.checked_files if folder.holds_run else ():
        if not path.exists():  # killed before the first validation
            continue
        result.add("loads")
        try:
            check_intact(path)
        except ConvLSTMError as error:
            result.fail(f"after a kill at {place}: {error}")


def _check_end(folder: Path, problems: list[str], whole: dict[str, bytes], result: Result) -> None:
    """Compare a run that has ended with the run without a kill, and delete it."""
    for problem in problems:
        result.fail(f"a resumed run: {problem}")
    files = run_contents(folder / "run")
    different = sorted(name for name in whole.keys() | files.keys() if whole.get(name) != files.get(name))
    if different:
        result.fail(f"the run {folder.name} differs in {', '.join(different)}")
    if left := drafts(folder):
        result.fail(f"left at the end: {', '.join(left)}")
    result.add("runs")
    shutil.rmtree(folder)


def _of(framework: str) -> Callable[[Options], Result]:
    return lambda options: kill_loop(options, framework)


PROOFS = {name: Proof(_of(name), count, "kills") for name, count in FULL_COUNT.items()}
