"""State machines of hypothesis: a run folder with failing calls, and a watch of an archive that grows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import xarray as xr
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from benchmarks.torture.inputs import TRAINING, drafts, make_rain
from benchmarks.torture.proof import Options, Proof, Result
from convlstm import files
from convlstm.errors import ConvLSTMError, OutputError
from convlstm.nowcast.config import Config, validate
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.nowcast.run_folder import Progress, RunFolder
from convlstm.nowcast.watch import incoming
from convlstm.nowcast.watch.watcher import Watcher, WatchOptions
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model

STEPS = 30  # rules of one example
DATA = {"shape": [48, 1, 24, 24]}
SPEC = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1)


class KilledError(BaseException):
    """Ends the writing of a file as a kill does: no handler of errors sees it."""


@contextmanager
def failing_call(number: int, error: BaseException):
    """Let the n-th call of `fsync` or `replace` fail; after a kill no temporary folder is removed."""
    calls = iter(range(1, 1000))

    def failing(real: Callable[..., object], *arguments: object) -> object:
        if next(calls) == number:
            raise error
        return real(*arguments)

    remove = shutil.rmtree
    if isinstance(error, KilledError):

        def remove(*arguments: object, **options: object) -> None:
            return None

    with (
        mock.patch.object(os, "fsync", partial(failing, os.fsync)),
        mock.patch.object(os, "replace", partial(failing, os.replace)),
        mock.patch.object(files.shutil, "rmtree", remove),
    ):
        yield


class RunFolderMachine(RuleBasedStateMachine):
    """A training that saves model, log and state, fails or is killed in any call, and resumes.

    The model of the folder is the set of steps that its state may have.
    """

    config: Config
    runs = 0

    @initialize()
    def begin(self) -> None:
        """Start in an empty folder."""
        type(self).runs += 1
        self.place = Path(tempfile.mkdtemp(prefix="convlstm-run-"))
        self.folder = RunFolder(self.place / "run")
        self.step = 0  # of the training in memory
        self.saved = {0}  # steps that the state on disk may have
        self.models: set[str] = set()  # digests that the model on disk may have
        self.is_running = False

    @rule()
    @precondition(lambda self: not self.is_running)
    def resume(self) -> None:
        """Begin as `convlstm train --resume` does: the state is one that may be there, and so is the log."""
        with self.folder.begun(self.config, resume=True):
            arrays, progress = self.folder.load_state(DATA)
            assert progress.step in self.saved
            assert (arrays is None) == (progress.step == 0)
            if arrays is not None:
                assert arrays["weights"].tobytes() == _weights(progress.step).tobytes()
            assert [entry["step"] for entry in self.folder.history()] == list(range(1, progress.step + 1))
            assert drafts(self.place) == []
        self.step, self.saved, self.is_running = progress.step, {progress.step}, True

    @rule(kind=st.sampled_from(["none", "EIO", "kill"]), call=st.integers(1, 9))
    @precondition(lambda self: self.is_running)
    def save(self, kind: str, call: int) -> None:
        """Make a step and save it; with a fault, the training has ended."""
        step = self.step + 1
        error = KilledError() if kind == "kill" else OSError(5, "Input/output error")
        weights = initialise(SPEC, step)
        try:
            with failing_call(call if kind != "none" else 10**6, error):
                self.models.add(f"{step}")
                self.folder.save_model(SPEC, weights, {"step": step})
                self.folder.log({"step": step, "loss": 1.0})
                self.saved.add(step)
                self.folder.save_state({"weights": _weights(step)}, Progress(step=step), DATA)
        except (OutputError, KilledError):
            self.is_running = False
            return
        self.step, self.saved, self.models = step, {step}, {f"{step}"}

    @rule(size=st.integers(1, 60))
    @precondition(lambda self: not self.is_running)
    def leave_half_a_line(self, size: int) -> None:
        """Let a kill in the middle of a line of the log leave a part of it."""
        if self.folder.history():
            with self.folder.files[3].open("a", encoding="utf-8") as file:
                file.write('{"step": 99, "loss": 0.123456789012345678901234567890123456'[:size])

    @invariant()
    def every_file_can_be_read(self) -> None:
        """A reader never sees a damaged file, whatever has happened."""
        if not hasattr(self, "folder"):
            return
        assert self.folder.read_state(DATA)[1].step in self.saved
        if self.folder.model.exists():
            assert str(load_model(self.folder.model).extra["step"]) in self.models

    def teardown(self) -> None:
        """Delete the folder."""
        if hasattr(self, "place"):
            shutil.rmtree(self.place, ignore_errors=True)


def _weights(step: int) -> np.ndarray:
    return np.random.default_rng(step).random(50)


class ArchiveMachine(RuleBasedStateMachine):
    """A folder that receives frames in any order and in parts, and a watch that is stopped at any time.

    At the end every file is complete. Each forecast is then the one of its frames, and each initial time with enough
    of them has one.
    """

    nowcaster: Nowcaster
    dataset: xr.Dataset
    frames: list[bytes]
    runs = 0

    @initialize()
    def begin(self) -> None:
        """Start a watch of an empty folder."""
        type(self).runs += 1
        self.place = Path(tempfile.mkdtemp(prefix="convlstm-archive-"))
        self.source, self.output = self.place / "incoming", self.place / "out"
        self.source.mkdir()
        self.whole: set[int] = set()
        self.events: list = []
        self.start()

    def start(self) -> None:
        """Start a watch, as a new process does."""
        options = WatchOptions(output=self.output, settle=0.0, catch_up=7200.0)
        self.watcher = Watcher(self.nowcaster, self.source, options, self.events.append)

    def path(self, number: int) -> Path:
        """Return the path of a frame."""
        return self.source / f"rain_{number:02}.nc"

    @rule(number=st.integers(0, 11), share=st.floats(0.0, 1.0))
    def deliver_a_part(self, number: int, share: float) -> None:
        """Write the beginning of a frame that is not complete."""
        if number not in self.whole:
            content = self.frames[number]
            self.path(number).write_bytes(content[: int(share * (len(content) - 1))])

    @rule(number=st.integers(0, 11))
    def deliver(self, number: int) -> None:
        """Write a whole frame."""
        self.path(number).write_bytes(self.frames[number])
        self.whole.add(number)

    @rule()
    def look(self) -> None:
        """Let the watch take what is there."""
        self.watcher.step()

    @rule()
    def restart(self) -> None:
        """Start another watch, without a message to the one before."""
        self.start()

    @rule(call=st.integers(1, 8), kills=st.booleans())
    def look_with_a_fault(self, call: int, kills: bool) -> None:
        """Let a call of the watch fail, or kill it there and start another one."""
        error = KilledError() if kills else OSError(28, "No space left on device")
        try:
            with failing_call(call, error):
                self.watcher.step()
        except KilledError:
            self.start()

    @invariant()
    def every_forecast_can_be_read(self) -> None:
        """A reader of the output folder never sees a part of a forecast."""
        for path in self.output.glob("forecast_*.nc") if hasattr(self, "output") else ():
            with xr.open_dataset(path) as forecast:
                assert forecast.sizes["lead_time"] == self.nowcaster.pipeline.horizon

    def teardown(self) -> None:
        """Complete all frames, and check all forecasts."""
        if not hasattr(self, "place"):
            return
        try:
            for number in range(12):
                self.deliver(number)
            self.start()
            self.watcher.step()
            self.check_forecasts()
            assert drafts(self.output) == []
        finally:
            shutil.rmtree(self.place, ignore_errors=True)

    def check_forecasts(self) -> None:
        """Compare every forecast with that of its frames, without those that the event says were missing."""
        length, times = self.nowcaster.pipeline.input_length, self.dataset["time"].values
        missing = {
            event.values["init_time"]: event.values["missing_inputs"]
            for event in self.events
            if event.kind == "forecast"
        }
        made = {path.stem.removeprefix("forecast_") for path in self.output.glob("forecast_*.nc")}
        names = {str(np.datetime_as_string(time, "s")).replace("-", "").replace(":", "")[:13] + "Z" for time in times}
        due = sorted(names)[length // 2 + length % 2 - 1 :]
        assert made == set(due), (sorted(made), due)
        for text, absent in missing.items():
            last = int(np.flatnonzero(times == np.datetime64(text.removesuffix("Z"), "ns"))[0])
            inputs = self.values(last, length, {np.datetime64(name.removesuffix("Z"), "ns") for name in absent})
            expected = self.nowcaster.forecast(inputs, units="mm/h", time_step=300.0, init_time=times[last])
            with xr.open_dataset(self.output / f"forecast_{text[:16].replace('-', '').replace(':', '')}Z.nc") as there:
                name, other = (next(iter(forecast.data_vars)) for forecast in (there, expected))
                # a later forecast of the same time may have replaced one that could not be written
                np.testing.assert_allclose(there[name].values, expected[other].values, rtol=1e-5, atol=1e-5)

    def values(self, last: int, length: int, absent: set[np.datetime64]) -> np.ndarray:
        """Return the input frames up to one, NaN where they are absent."""
        rain, times = self.dataset["rainfall_rate"].values, self.dataset["time"].values
        frames = [rain[n] if n >= 0 and times[n] not in absent else np.full(rain[0].shape, np.nan)
                  for n in range(last - length + 1, last + 1)]  # fmt: skip
        return np.stack(frames)


def _run(machine: type[RuleBasedStateMachine], options: Options) -> Result:
    """Run examples until the count or the time is over."""
    result = Result()
    machine.runs = 0
    for number in options.numbers():
        chosen = settings(
            max_examples=10,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[Phase.generate],  # the seed repeats a failure, and shrinking it takes minutes
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(seed(options.seed + number)(machine), settings=chosen)
        except (AssertionError, ConvLSTMError, OSError, ValueError, KeyError) as error:
            result.fail(
                f"{type(error).__name__}: {str(error)[:300]}; {' '.join(getattr(error, '__notes__', []))[:1500]}"
            )
            break
        if machine.runs >= options.count:
            break
    result.count = machine.runs
    result.figures["steps at most"] = machine.runs * STEPS
    return result


def run_folder(options: Options) -> Result:
    """Check the run folder."""
    settings_of = dict(word.split("=") for word in TRAINING if "=" in word)
    RunFolderMachine.config = validate({"training": {"steps": int(settings_of["training.steps"])}})
    return _run(RunFolderMachine, options)


def archive(options: Options) -> Result:
    """Check the watch of an archive that grows."""
    from benchmarks.torture.flips import trained

    run = trained(options.work)
    rain = make_rain(options.work / "rain.nc")
    ArchiveMachine.nowcaster = Nowcaster.load(run, threads=1)
    with xr.open_dataset(rain) as dataset:
        ArchiveMachine.dataset = dataset.isel(time=slice(0, 12)).load()
    contents = []
    for number in range(12):
        path = options.work / "frame.nc"
        ArchiveMachine.dataset.isel(time=slice(number, number + 1)).to_netcdf(path)
        contents.append(path.read_bytes())
    ArchiveMachine.frames = contents
    with mock.patch.object(incoming, "RETRY_SECONDS", 0.0):
        return _run(ArchiveMachine, options)


PROOFS = {"run-folder": Proof(run_folder, 10_000, "runs"), "archive": Proof(archive, 500, "archives")}
