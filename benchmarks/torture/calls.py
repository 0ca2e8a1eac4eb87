"""Fail every file-system call of every writing command in turn, or end the process there.

Each call fails with EIO, then with ENOSPC, and then the process is killed before it. After each the old or the new
output must be whole, the exit code documented, and standard error one line. The same command must then succeed and
leave nothing but its output.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xarray as xr

from benchmarks.torture.commands import Commands, Fault, Outcome, compiler, serving
from benchmarks.torture.inputs import FRAMEWORK_MODULES, LIBRARIES, TRAINING, drafts, make_rain, run_contents
from benchmarks.torture.proof import Options, Proof, Result
from convlstm.errors import ConvLSTMError
from convlstm.interop.containers import read_arrays
from convlstm.nowcast.run_folder import RunFolder
from convlstm.report.results import read_results
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import check_intact, load_model, save_model, weights_digest

FAULTS = ({"mode": "fail", "error": errno.EIO}, {"mode": "fail", "error": errno.ENOSPC}, {"mode": "kill"})
NO_COMPILER = "needs Linux and a C compiler (cc)"
_MODEL = "../model"  # a run, next to the folder of the command
_RAIN = "../rain.nc"
_WORD = ("--threads", "1")
_EVALUATION = ("evaluate", _MODEL, _RAIN, "-o", "out", "--max-cases", "2", "--min-wet", "0", "--overwrite", *_WORD)


@dataclass(frozen=True)
class Command:
    """One writing command.

    Args:
        words: Its arguments.
        read: Returns the content of its output in a folder, or raises an error if that is damaged.
        old: Arguments of the command that writes the old output; None if there is none.
        is_whole: Whether a content that is neither the old nor the new is right, because the command saves in parts.
    """

    words: Sequence[object]
    read: Callable[[Path], object]
    old: Sequence[object] | None
    is_whole: Callable[[object], bool] = lambda value: False


def _train_words(*more: str) -> list[object]:
    return ["train", _RAIN, "-o", "out", *TRAINING, *more, *_WORD, "--resume"]


def _read_run(folder: Path) -> object:
    """Return the files of a run, whose model and state must be intact."""
    run = RunFolder(folder / "out")
    for path in run.checked_files:
        check_intact(path)
    return run_contents(run.path)


def _read_dataset(name: str, folder: Path) -> object:
    """Return the digest of the values of a forecast."""
    path = folder / name
    if not path.exists():
        return None
    with xr.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else "netcdf4") as dataset:
        values = {str(key): variable.values.tobytes() for key, variable in dataset.variables.items()}
    return hashlib.sha256(b"".join(key.encode() + values[key] for key in sorted(values))).hexdigest()


def _read_evaluation(folder: Path) -> object:
    """Return the scores of an evaluation, or None without its description, where every reader refuses it."""
    if not (folder / "out" / "evaluation.json").exists():
        return None
    results = read_results(folder / "out")
    return results.scores.to_csv() + json.dumps(results.evaluation.thresholds)


def _read_bytes(name: str, folder: Path) -> object:
    path = folder / name
    return path.read_bytes() if path.exists() else None


def _read_arrays(folder: Path) -> object:
    path = folder / "out.npz"
    return weights_digest(read_arrays(path)) if path.exists() else None


def _read_hub(folder: Path) -> object:
    path = folder / "out"
    return load_model(path).digest if path.exists() else None


COMMANDS = {
    "train": Command(
        _train_words(),
        _read_run,
        _train_words("--set", "training.steps=4"),
        lambda value: not isinstance(value, Damage),
    ),
    "forecast-netcdf": Command(
        ("forecast", _MODEL, _RAIN, "-o", "out.nc", *_WORD),
        partial(_read_dataset, "out.nc"),
        ("forecast", _MODEL, _RAIN, "-o", "out.nc", "--lead-times", "5", *_WORD),
    ),
    "forecast-zarr": Command(
        ("forecast", _MODEL, _RAIN, "-o", "out.zarr", *_WORD),
        partial(_read_dataset, "out.zarr"),
        ("forecast", _MODEL, _RAIN, "-o", "out.zarr", "--lead-times", "5", *_WORD),
    ),
    "forecast-tiles": Command(
        ("forecast", _MODEL, _RAIN, "-o", "out.zarr", "--tile", "16", "--overwrite", *_WORD),
        partial(_read_dataset, "out.zarr"),
        ("forecast", _MODEL, _RAIN, "-o", "out.zarr", "--lead-times", "5", *_WORD),
    ),
    "evaluate": Command(
        (*_EVALUATION, "--threshold", "1"),
        _read_evaluation,
        (*_EVALUATION, "--threshold", "0.3"),
        lambda value: value is None,
    ),
    "export-onnx": Command(("export", _MODEL, "-o", "out.onnx"), partial(_read_bytes, "out.onnx"), None),
    "export-hub": Command(("export", _MODEL, "-o", "out", "--format", "hub"), _read_hub, None),
    "convert": Command(
        ("convert", "../layer.safetensors", "-o", "out.npz", "--to", "ndrplz"),
        _read_arrays,
        ("convert", "../other.safetensors", "-o", "out.npz", "--to", "ndrplz"),
    ),
}


@dataclass
class _Scene:
    """A command with its old output, its new output, and the names of the files at the end."""

    command: Command
    commands: Commands
    work: Path
    template: Path
    old: object
    new: object
    names: list[str]
    calls: int

    def fresh(self) -> Path:
        """Return a folder with the old output."""
        folder = self.work / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder, symlinks=True)
        return folder

    def check(self, fault: Fault, result: Result) -> Outcome:
        """Run the command with a fault, check the output, and check the next run."""
        folder = self.fresh()
        outcome = self.commands.run(self.command.words, folder, fault)
        place = f"{_words(fault)} at call {fault.call} ({outcome.hit})"
        for problem in outcome.problems:
            result.fail(f"{place}: {problem}")
        self._check_output(folder, outcome, place, result)
        if drafts(folder):
            result.add("drafts swept")
        if self.command.old is None and _value(self.command, folder) == self.new:
            for name in self.names:  # a complete output, which the command may refuse to replace
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        after = self.commands.run(self.command.words, folder)
        value = _value(self.command, folder)
        if after.code or value != self.new:
            result.fail(f"after {place}: the next run has exit code {after.code}, {after.err.strip()[:200]}")
        elif sorted(os.listdir(folder)) != self.names or drafts(folder):
            result.fail(f"after {place}: the next run leaves {sorted(os.listdir(folder))} {drafts(folder)}")
        return outcome

    def _check_output(self, folder: Path, outcome: Outcome, place: str, result: Result) -> None:
        value = _value(self.command, folder)
        if outcome.code == 0:
            result.add("exit code 0")
            if value != self.new:
                result.fail(f"{place}: exit code 0 without the new output")
            return
        result.add("killed" if outcome.code == -signal.SIGKILL else f"exit code {outcome.code}")
        if value not in (self.old, self.new) and not self.command.is_whole(value):
            result.fail(f"{place}: neither the old nor the new output is whole: {str(value)[:160]}")


@dataclass(frozen=True)
class Damage:
    """The error with which an output is refused."""

    text: str


def _value(command: Command, folder: Path) -> object:
    try:
        return command.read(folder)
    except (ConvLSTMError, OSError, ValueError, KeyError) as error:
        return Damage(f"{type(error).__name__}: {error}")


def _words(fault: Fault) -> str:
    return fault.mode if not fault.error else errno.errorcode[fault.error]


def _prepare(commands: Commands, work: Path, name: str) -> _Scene:
    """Write inputs and old output, and run the command once without a fault."""
    command = COMMANDS[name]
    make_rain(work / "rain.nc")
    template = work / "template"
    template.mkdir()
    if _MODEL in command.words:
        _succeed(commands.run(["train", "rain.nc", "-o", "model", *TRAINING, *_WORD], work))
    for seed, layer in enumerate(("layer", "other")):
        spec = ConvLSTMSpec(in_channels=1, hidden_channels=3, kernel_size=3)
        save_model(work / f"{layer}.safetensors", spec, initialise(spec, seed))
    if command.old is not None:
        _succeed(commands.run(command.old, template))
    scene = _Scene(command, commands, work, template, _value(command, template), None, [], 0)
    folder = scene.fresh()
    outcome = commands.run(command.words, folder, Fault())
    _succeed(outcome)
    scene.new, scene.names, scene.calls = command.read(folder), sorted(os.listdir(folder)), outcome.calls
    if command.old is not None and scene.old == scene.new:
        raise RuntimeError(f"{name}: the old and the new output are equal")
    return scene


def _succeed(outcome: Outcome) -> None:
    if outcome.code:
        raise RuntimeError(outcome.err)


def _faults(calls: int, options: Options) -> Iterator[Fault]:
    """Yield each fault at each call; a smaller count takes some of them at random."""
    faults = [Fault(number, **fault) for number in range(1, calls + 1) for fault in FAULTS]
    chosen = options.random.permutation(len(faults))[: options.count]
    order = sorted(chosen) if options.count >= len(faults) else chosen
    for position in options.numbers():
        if position >= len(order):
            return
        yield faults[order[position]]


def fail_calls(options: Options, name: str) -> Result:
    """Fail the calls of one command."""
    if compiler() is None:
        return Result(skipped=NO_COMPILER)
    result = Result()
    with serving(options.work / "server", *LIBRARIES, FRAMEWORK_MODULES["torch"], "zarr") as commands:
        scene = _prepare(commands, options.work, name)
        result.figures = {"calls": scene.calls, "faults in all": scene.calls * len(FAULTS)}
        for fault in _faults(scene.calls, options):
            scene.check(fault, result)
            result.count += 1
    return result


def change_bits(options: Options) -> Result:
    """Change a bit of each write of a training: one in a model or state is found before the older file is replaced."""
    if compiler() is None:
        return Result(skipped=NO_COMPILER)
    result = Result(figures={"found": 0})
    with serving(options.work / "server", *LIBRARIES, FRAMEWORK_MODULES["torch"]) as commands:
        scene = _prepare(commands, options.work, "train")
        result.figures["calls"] = scene.calls
        for call in range(1, scene.calls + 1):
            if result.count >= options.count or options.is_over:
                break
            folder = scene.fresh()
            outcome = commands.run(scene.command.words, folder, Fault(call, "flip"))
            if not (outcome.hit.startswith("write ") and outcome.hit.endswith(".safetensors")):
                continue
            result.count += 1
            if outcome.code != 6 or "other bytes when the file was read again" not in outcome.err or outcome.problems:
                result.fail(f"a changed bit in {outcome.hit}: exit code {outcome.code}, {outcome.err.strip()[:200]}")
                continue
            result.add("found")
            if isinstance(value := _value(scene.command, folder), Damage):
                result.fail(f"a changed bit in {outcome.hit}: {value.text}")
            after = commands.run(scene.command.words, folder)
            if after.code or _value(scene.command, folder) != scene.new:
                result.fail(f"after a changed bit in {outcome.hit}: {after.err.strip()[:200]}")
    return result


_EVERY = 10**6  # more than any command has
PROOFS = {name: Proof(partial(fail_calls, name=name), _EVERY, "faults") for name in COMMANDS}
PROOFS["changed-bits"] = Proof(change_bits, _EVERY, "changed writes")
