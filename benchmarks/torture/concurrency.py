"""Two writers of one folder, and readers while a writer replaces what they read."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from safetensors import safe_open

from benchmarks.torture.commands import Outcome, serving
from benchmarks.torture.inputs import FRAMEWORK_MODULES, LIBRARIES, TRAINING, drafts, make_rain, run_contents
from benchmarks.torture.proof import Options, Proof, Result
from convlstm.errors import ConvLSTMError
from convlstm.nowcast.cf_output import write_forecast
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model

TRAIN = ("train", "../rain.nc", "-o", "out", *TRAINING, "--threads", "1", "--resume")
SPEC = ConvLSTMSpec(in_channels=4, hidden_channels=[16, 16], kernel_size=3)
WATCHED = 12.0  # seconds of the first of two watches
SECOND = 4.0  # seconds after which the second one starts


@contextmanager
def _two_servers(work: Path):
    """Start two servers, and yield a function that runs a command in each at the same time."""
    modules = (*LIBRARIES, FRAMEWORK_MODULES["torch"], "convlstm.nowcast.watch.watcher")
    with (
        serving(work / "one", *modules, faults=False) as one,
        serving(work / "two", *modules, faults=False) as two,
        ThreadPoolExecutor(2) as pool,
    ):

        def both(words, folder: Path, later: float = 0.0, kill_after: float | None = None) -> list[Outcome]:
            first = pool.submit(one.run, words, folder, kill_after=kill_after)
            time.sleep(later)
            second = pool.submit(two.run, words, folder, kill_after=kill_after)
            return [first.result(), second.result()]

        one.run(["--version"], work)  # both have loaded their modules before the first pair
        two.run(["--version"], work)
        yield both


def two_trainings(options: Options) -> Result:
    """Start two trainings in one folder: one is refused, or continues when the other has ended."""
    make_rain(options.work / "rain.nc")
    result, whole = Result(figures={"refused": 0}), None
    with _two_servers(options.work) as both:
        for number in options.numbers():
            folder = options.work / f"pair{number}"
            folder.mkdir()
            outcomes = both(TRAIN, folder)
            result.count += 1
            codes = sorted(outcome.code for outcome in outcomes)
            refused = [outcome for outcome in outcomes if outcome.code]
            result.add("refused", len(refused))
            if codes not in ([0, 0], [0, 6]) or any("got a training in process" not in it.err for it in refused):
                result.fail(f"exit codes {codes}: {[outcome.err.strip()[:200] for outcome in refused]}")
            files = run_contents(folder / "out")
            whole = whole or files
            if files != whole or drafts(folder):
                result.fail(f"pair {number}: other files than those of the first pair, or drafts")
    if result.count and not result.figures["refused"]:
        result.fail("no training was refused: the two never ran at the same time")
    return result


def two_watches(options: Options) -> Result:
    """Start a second watch on an output folder: it is refused, and a watch after the kill of the first one is not."""
    rain = make_rain(options.work / "rain.nc")
    result = Result(figures={"forecasts": 0})
    with _two_servers(options.work) as both:
        for number in options.numbers():
            folder = options.work / f"watch{number}"
            (folder / "incoming").mkdir(parents=True)
            (folder / "incoming" / "rain.nc").write_bytes(rain.read_bytes())
            words = ("watch", "incoming", "-o", "out", "--settle", "0", "--threads", "1", "--catch-up", "0")
            first, second = both(words, folder, later=SECOND, kill_after=WATCHED)
            third, _ = both(words, folder, kill_after=SECOND)
            result.count += 1
            if second.code != 6 or "got a watch in process" not in second.err or second.problems:
                result.fail(f"the second watch: exit code {second.code}, {second.err.strip()[:200]}")
            if first.code != -signal.SIGKILL or first.err:
                result.fail(f"the first watch: exit code {first.code}, {first.err.strip()[:200]}")
            if third.code not in (-signal.SIGKILL, 6):
                result.fail(f"a watch after the kill: exit code {third.code}, {third.err.strip()[:200]}")
            result.add("forecasts", len(list((folder / "out").glob("forecast_*.nc"))))
    if result.count and not result.figures["forecasts"]:
        result.fail("no watch made a forecast")
    return result


def _read_while_written(
    options: Options, path: Path, write: Callable[[int], object], read: Callable[[Path], object]
) -> Result:
    """Read a path in a loop while another process replaces it with one of two contents in turn."""
    write(0)
    legal = [read(path)]
    write(1)
    legal.append(read(path))
    child = os.fork()
    if child == 0:
        try:
            for number in options.numbers():
                write(number % 2)
        finally:
            os._exit(0)
    result = Result(count=options.count, figures={"reads": 0, "seen": 0})
    seen = set()
    while True:
        done, _ = os.waitpid(child, os.WNOHANG)
        if done:
            break
        try:
            value = read(path)
        except (ConvLSTMError, OSError, ValueError, KeyError) as error:
            result.fail(f"read {result.figures['reads']}: {type(error).__name__}: {str(error)[:200]}")
        else:
            if value in legal:
                seen.add(legal.index(value))
            else:
                result.fail(f"read {result.figures['reads']}: neither of the two contents")
        result.add("reads")
    result.figures["seen"] = len(seen)
    if left := drafts(path.parent):
        result.fail(f"left at the end: {left}")
    return result


def read_model(options: Options) -> Result:
    """Load a model while another process saves it."""
    path = options.work / "model.safetensors"
    weights = [initialise(SPEC, seed) for seed in range(2)]
    return _read_while_written(
        options, path, lambda n: save_model(path, SPEC, weights[n]), lambda file: load_model(file).digest
    )


def read_forecast(options: Options, suffix: str) -> Result:
    """Read all values of a forecast while another process writes it."""
    path = options.work / f"forecast{suffix}"
    axes = ("time", "y", "x")
    datasets = [xr.Dataset({"rain": (axes, np.full((12, 64, 64), n, np.float32))}) for n in range(2)]

    def read(file: Path) -> object:
        with xr.open_dataset(file, engine="zarr" if suffix == ".zarr" else "netcdf4") as dataset:
            return hashlib.sha256(dataset["rain"].values.tobytes()).hexdigest()

    return _read_while_written(options, path, lambda n: write_forecast(path, datasets[n]), read)


def save_onto_mapped(options: Options) -> Result:
    """Save a model onto the file whose memory map a loader holds: the mapped arrays stay, and the file has the new."""
    path, result = options.work / "model.safetensors", Result()
    weights = [initialise(SPEC, seed) for seed in range(2)]
    save_model(path, SPEC, weights[1])
    for number in options.numbers():
        old, new = weights[(number + 1) % 2], weights[number % 2]
        mapped = np.memmap(path, mode="r")
        before = hashlib.sha256(mapped.tobytes()).hexdigest()
        with safe_open(path, framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            digest = save_model(path, SPEC, new)
            if any(not np.array_equal(part[:], old[key]) for key, part in slices.items()):
                result.fail(f"save {number}: the arrays of the loader have changed")
        if hashlib.sha256(mapped.tobytes()).hexdigest() != before:
            result.fail(f"save {number}: the mapped bytes have changed")
        del mapped
        if load_model(path).digest != digest:
            result.fail(f"save {number}: the file has other weights")
        # as a training does that starts from the file and saves onto it
        loaded = load_model(path)
        if save_model(path, loaded.spec, loaded.weights, loaded.extra) != digest:
            result.fail(f"save {number}: loaded weights were saved with another digest")
        result.count += 1
    return result


PROOFS = {
    "two-trainings": Proof(two_trainings, 50, "pairs"),
    "two-watches": Proof(two_watches, 10, "pairs"),
    "read-model": Proof(read_model, 1000, "saves"),
    "read-netcdf": Proof(partial(read_forecast, suffix=".nc"), 1000, "saves"),
    "read-zarr": Proof(partial(read_forecast, suffix=".zarr"), 200, "saves"),
    "save-onto-mapped": Proof(save_onto_mapped, 1000, "saves"),
}
