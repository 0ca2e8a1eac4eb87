"""The loop of a watch: take new frames, forecast what is due, and report it."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convlstm import __version__
from convlstm.data import Frames
from convlstm.data.accumulation import check_sums_per_step
from convlstm.data.summary import summarise, summary_lines
from convlstm.errors import ConvLSTMError, DataError, OutputError
from convlstm.files import check_writable
from convlstm.nowcast.cf_output import lead_seconds, make_forecast, write_forecast
from convlstm.nowcast.clock import utc_text
from convlstm.nowcast.folder_lock import locked
from convlstm.nowcast.inputs import MOST_EMPTY
from convlstm.nowcast.layouts import check_layout, with_layout
from convlstm.nowcast.members import check_members
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.nowcast.signals import collected_signals
from convlstm.nowcast.watch.events import Event, Level, Report
from convlstm.nowcast.watch.health import HEALTH_FILE, HEARTBEAT_SECONDS, Health, State
from convlstm.nowcast.watch.incoming import Delivery, Incoming
from convlstm.nowcast.watch.memory import return_free_memory
from convlstm.nowcast.watch.names import DEFAULT_NAME, OutputNames
from convlstm.nowcast.watch.recent import RecentFrames
from convlstm.nowcast.watch.schedule import Schedule

_SHARE_OF_LISTING = 0.1  # of the time that may be spent on listing a folder
_MOST_AHEAD = np.timedelta64(1, "D")  # of the time of a frame; a later one would make all others too old


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """The options of a watch.

    Args:
        output: Folder of the forecasts.
        name: Template of their names, with the fields of `strftime`.
        layout: Names and dimensions of the files, as in `with_layout`.
        lead_times: Lead times in seconds; None takes those of the training.
        members: Number of ensemble members.
        seed: Seed of the members.
        max_age: Largest age of a frame in seconds, compared with the clock.
        catch_up: Seconds before the last frame in which a forecast that is absent is made.
        poll: Seconds between two looks at the source.
        settle: Seconds without a change before a file is read.
        give_up: Seconds after which an unreadable file is given up.
        pattern: Names of the files in a folder, as in `Path.glob`.
        health: Path of the health file; None is `health.json` in the output folder.
        command: For the history of the forecasts.
        reading: Options of `open_frames`.
    """

    output: Path
    name: str = DEFAULT_NAME
    layout: str = "cf"
    lead_times: Sequence[float] | None = None
    members: int = 0
    seed: int = 0
    max_age: float | None = None
    catch_up: float = 3600.0
    poll: float = 1.0
    settle: float = 2.0
    give_up: float = 600.0
    pattern: str = "*"
    health: Path | None = None
    command: Sequence[str] = ()
    reading: dict[str, Any] = field(default_factory=dict)


class Watcher:
    """A watch of one source with one model.

    Args:
        nowcaster: The model.
        source: A folder that receives files, or one Zarr folder or NetCDF file that grows.
        options: The options.
        report: Receives an `Event` for everything that happens.

    Raises:
        DataError: if the source does not exist.
        OutputError: if the output folder is the source, or cannot be written.
        ConfigError: if the model cannot forecast the lead times, the template of the names is wrong, or the layout is
            unknown or not one for the variable of the model.
    """

    def __init__(self, nowcaster: Nowcaster, source: Path, options: WatchOptions, report: Report) -> None:
        self._nowcaster, self._options, self._listener = nowcaster, options, report
        pipeline = nowcaster.pipeline
        _check_source(source, options.output)
        self._leads = lead_seconds(nowcaster) if options.lead_times is None else np.asarray(options.lead_times)
        nowcaster.check_lead_times(self._leads)
        units = pipeline.units.partition(", ")[0]  # of the first variable
        check_layout(options.layout, pipeline.variables[0], units)
        if options.members:
            check_members(nowcaster, options.members)
        self._names = OutputNames(options.output, options.name, pipeline.time_step)
        self._health_path = options.health or options.output / HEALTH_FILE
        for path in (self._health_path, options.output / "forecast.nc"):
            check_writable(path)
        accumulated = (nowcaster.reading_options | options.reading).get("accumulated")
        self._asks_about_sums = accumulated is None
        self._recent = RecentFrames(pipeline, self._open)
        span = options.catch_up / pipeline.time_step + pipeline.input_length
        self._incoming = Incoming(
            source,
            self._open,
            self._report,
            keep=pipeline.input_length,
            first=3 * round(span) + 16,  # more than the frames of this span, for a folder with other files
            pattern=options.pattern,
            settle=options.settle,
            give_up=options.give_up,
            exclude=options.output,
        )
        self._schedule = Schedule(self._recent, self._names.path, pipeline, options.catch_up)
        self._version = 0  # increases with every frame
        self._not_written: set[np.datetime64] = set()  # initial times whose file could not be written
        self._written = 0.0  # when the health file was written
        self._health_failed = False
        now = utc_text()
        self._health = Health("starting", now, now, os.getpid(), __version__, nowcaster.model.digest, str(source))

    @property
    def health(self) -> Health:
        """The content of the health file."""
        return self._health

    def run(self) -> None:
        """Watch until SIGINT, SIGTERM or SIGHUP, then end the present forecast; a second one ends it at once."""
        with locked(self._options.output, "watch"):
            last_state: State = "failed"
            try:
                with collected_signals() as signals:
                    self._report(Event("start", f"watching {self._health.source}"))
                    while not signals:
                        seconds = self.step(signals)
                        _sleep(max(self._options.poll, seconds / _SHARE_OF_LISTING), signals)
                last_state = "stopped"
                self._report(Event("stop", f"stopped after {self._health.forecasts} forecasts"))
            except (KeyboardInterrupt, SystemExit):
                last_state = "stopped"
                raise
            finally:
                self._beat(last_state, force=True)

    def step(self, signals: Sequence[int] = ()) -> float:
        """Take new frames, make the forecasts that are due, and return the seconds of a look without news.

        The last initial time is the first one. A signal in the list ends the step after the present forecast.
        """
        seconds = self._take_new_frames()
        while not signals and (init_time := self._schedule.next_due(self._inputs)) is not None:
            self._forecast(init_time)
            return_free_memory()
            self._take_new_frames()
        self._beat("waiting")
        return seconds

    def _open(self, path: Path) -> Frames:
        """Return a file as frames; one that has a single frame needs the time step of the model."""
        options = {"time_step": self._nowcaster.pipeline.time_step} | self._options.reading
        return self._nowcaster.open_frames(path, **options)

    def _take_new_frames(self) -> float:
        """Add the frames of new files; return the seconds of a look that found none, else 0."""
        started = time.perf_counter()
        deliveries = sorted(self._incoming.poll(), key=lambda delivery: delivery.times[-1])
        if not deliveries:
            return time.perf_counter() - started
        newest = self._recent.newest
        for delivery in deliveries:
            try:
                self._check(delivery)
            except ConvLSTMError as error:
                values = {"file": str(delivery.path), "reason": str(error)}
                self._report(Event("refused", f"{delivery.path.name}: {error}", "WARNING", values))
                continue
            self._add(delivery)
        if newest is None and self._recent.newest is not None:
            self._report_reading(deliveries[-1])
        for frame in self._schedule.missing(newest):
            self._event("missing", frame, "no frame yet; forecasts after it use the others", "WARNING")
        self._report_skipped()
        self._incoming.release(self._recent.paths)
        return 0.0

    def _report_reading(self, delivery: Delivery) -> None:
        """Report how the first frames were read, so that a wrong unit is seen at once."""
        summary = summarise(delivery.frames)
        parts = [" ".join(line) for line in summary_lines(summary, self._nowcaster.pipeline.transform)]
        values = {"file": str(delivery.path), "data": summary.to_dict()}
        self._report(Event("read", f"{delivery.path.name}: {'; '.join(part.strip() for part in parts)}", values=values))

    def _check(self, delivery: Delivery) -> None:
        """Raise an error for frames that differ from those before, or that are far in the future."""
        self._recent.check(delivery)
        now = np.datetime64(round(time.time()), "s")
        if delivery.times[-1] > now + _MOST_AHEAD:
            raise DataError(
                str(delivery.path),
                expected=f"times in UTC up to now, {_text(now)}",
                received=_text(delivery.times[-1]),
                hint="Correct the time in the file, or the clock of this machine.",
            )

    def _add(self, delivery: Delivery) -> None:
        """Add the frames of a file that are new, and report what is unusual about them."""
        recent, schedule = self._recent, self._schedule
        newest = recent.newest
        latest = delivery.times[-1] if newest is None else max(newest, delivery.times[-1])
        oldest = schedule.oldest_needed(latest)
        if delivery.times[-1] < schedule.oldest_due(latest) and not delivery.is_first:
            self._event("late", delivery.times[-1], f"{delivery.path.name} is too late for a forecast", "WARNING")
        for frame in delivery.times[delivery.times >= oldest]:
            known = recent.find(frame)
            if known is None:
                if newest is not None and schedule.oldest_due(latest) <= frame < newest:
                    self._event("late", frame, f"{delivery.path.name} arrived after newer frames", "INFO")
                recent.add(delivery, frame)
                self._version += 1
            elif recent.place(known).path != delivery.path:
                self._health.duplicates += 1
                self._event("duplicate", frame, f"{delivery.path.name} has a frame that is known", "INFO")
            else:
                if schedule.is_made(known) and recent.differs(delivery, known):
                    self._event("changed", frame, f"{delivery.path.name} changed after its forecast", "WARNING")
                recent.add(delivery, known)

    def _report_skipped(self) -> None:
        """Count and report the initial times that are too old by now."""
        for skipped in self._schedule.advance():
            first, last, count = _text(skipped.times[0]), _text(skipped.times[-1]), len(skipped.times)
            self._health.skipped += count
            span = first if count == 1 else f"{count} from {first} to {last}"
            values = {"first": first, "last": last, "count": count, "reason": skipped.reason}
            self._report(Event("skipped", f"no forecast, {span}: {skipped.reason}", "WARNING", values))

    def _inputs(self, init_time: np.datetime64) -> Hashable:
        """Return what may change the answer for a forecast that was refused."""
        return self._version if init_time in self._not_written else self._recent.known_inputs(init_time)

    def _forecast(self, init_time: np.datetime64) -> None:
        """Make and write one forecast."""
        self._beat("forecasting", force=True)
        options, path, started = self._options, self._names.path(init_time), time.perf_counter()
        try:
            frames, absent = self._recent.inputs(init_time)
            self._check_number(absent)
            self._check_sums(frames)
            forecast = make_forecast(
                self._nowcaster,
                frames,
                lead_times=[float(lead) for lead in self._leads],
                max_age=options.max_age,
                members=options.members,
                seed=options.seed,
                command=options.command,
            )
            write_forecast(path, with_layout(forecast, options.layout))
        except (DataError, OutputError) as error:
            self._refuse(init_time, error)
            return
        place, written = self._recent.place(init_time), time.time()
        health = self._health
        health.compute_seconds = round(time.perf_counter() - started, 3)
        health.latency_seconds = None if place.is_first else round(max(written - place.changed, 0.0), 3)
        health.forecasts += 1
        health.last_output, health.last_forecast = str(path), utc_text(written)
        health.last_init_time, health.problem = _text(init_time), None
        self._schedule.done(init_time)
        message = f"{path.name} in {health.compute_seconds:.2f} s"
        if health.latency_seconds is not None:
            message += f", {health.latency_seconds:.2f} s after its file was written"
        if absent:
            message += f"; {len(absent)} of {self._nowcaster.pipeline.input_length} input frames are missing"
        values = {
            "init_time": _text(init_time),
            "output": str(path),
            "compute_seconds": health.compute_seconds,
            "latency_seconds": health.latency_seconds,
            "missing_inputs": [_text(frame) for frame in absent],
        }
        self._report(Event("forecast", message, values=values))

    def _check_number(self, absent: Sequence[np.datetime64]) -> None:
        """Raise an error if too many input frames are absent: more than `choose_inputs` allows without a value."""
        length = self._nowcaster.pipeline.input_length
        if len(absent) > MOST_EMPTY * length:
            raise DataError(
                "input frames",
                expected=f"at least {length - int(MOST_EMPTY * length)} of {length}",
                received=length - len(absent),
                hint="The forecast is made if more of them arrive in time.",
            )

    def _check_sums(self, frames: Frames) -> None:
        """Raise an error for sums that only rise from file to file, unless an option says what they are."""
        for channel in frames.channels:
            if self._asks_about_sums and channel.conversion.amount:
                check_sums_per_step(channel)

    def _refuse(self, init_time: np.datetime64, error: ConvLSTMError) -> None:
        """Note why a forecast was not made; it is tried again when its inputs change, or the disk may have space."""
        is_output = isinstance(error, OutputError)
        self._not_written &= set(self._recent.times) - {init_time}
        if is_output:
            self._not_written.add(init_time)
        if self._schedule.refuse(init_time, str(error), self._inputs(init_time)):
            values = {"init_time": _text(init_time), "reason": str(error)}
            message = f"no forecast from {_text(init_time)}: {error}"
            self._report(Event("refused", message, "ERROR" if is_output else "WARNING", values))

    def _event(self, kind: str, frame: np.datetime64, message: str, level: Level) -> None:
        values = {"frame": _text(frame), "reason": message}
        self._report(Event(kind, f"{_text(frame)}: {message}", level, values))

    def _report(self, event: Event) -> None:
        if event.level != "INFO":
            self._health.problem = event.message
        self._listener(event)

    def _beat(self, state: State, *, force: bool = False) -> None:
        """Write the health file if its content is old, or something happened."""
        health, now = self._health, time.time()
        newest = self._recent.newest
        before = (health.state, health.last_frame, health.pending, health.given_up, health.skipped)
        health.state, health.last_frame = state, None if newest is None else _text(newest)
        health.pending, health.given_up = len(self._incoming.pending), self._incoming.given_up
        after = (health.state, health.last_frame, health.pending, health.given_up, health.skipped)
        if not force and before == after and now - self._written < HEARTBEAT_SECONDS:
            return
        self._written, health.updated = now, utc_text(now)
        try:
            health.write(self._health_path)
        except OutputError as error:
            if not self._health_failed:
                self._report(Event("problem", str(error), "ERROR", {"reason": str(error)}))
            self._health_failed = True
        else:
            self._health_failed = False


def _check_source(source: Path, output: Path) -> None:
    if not source.exists():
        raise DataError(
            str(source),
            expected="a folder that receives files, or a Zarr folder or NetCDF file that grows",
            received="nothing there",
            hint="Correct the path, or create the folder.",
        )
    if output.exists() and output.samefile(source):
        raise OutputError(
            str(output),
            expected="a folder other than the source",
            received="the source",
            hint="Choose another `--output`.",
        )


def _sleep(seconds: float, signals: Sequence[int]) -> None:
    """Wait, or until a signal arrives: no lock is used, which a signal handler could not take."""
    end = time.monotonic() + seconds
    while not signals and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def _text(frame: np.datetime64) -> str:
    return f"{frame.astype('datetime64[s]')}Z"
