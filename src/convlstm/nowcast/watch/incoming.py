"""Find the complete files of a folder, or new frames in a growing store, by polling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convlstm.data import Frames
from convlstm.data.formats.zarr_store import is_store
from convlstm.data.units import Field
from convlstm.errors import DataError
from convlstm.nowcast.watch.events import Event, Report

Signature = tuple[int, int, int]  # files, bytes, time of the last change in nanoseconds

TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".swp")
"""Endings of files that are still being written, which are not read."""

NOT_FRAMES = (".json", ".log", ".txt", ".md5", ".sha256", ".xml", ".png", ".gif", ".jpg", ".csv", ".html", ".pdf")
"""Endings of files that never hold frames, and often lie in the same folder."""

_MOST_UNREADABLE = 100  # files given up that are looked at again when they change

RETRY_SECONDS = 5.0
"""Time between two attempts to read a file that did not change."""


@dataclass(frozen=True, eq=False)
class Delivery:
    """A file that was read: its frames, and the values of the last ones."""

    path: Path
    frames: Frames
    times: np.ndarray[tuple[int], np.dtype[np.datetime64]]  # of all its frames
    values: Mapping[np.datetime64, Field]  # (channel, height, width) of the last frames
    changed: float  # time of its last change, in seconds since 1970
    is_first: bool  # whether it was there when the watch began


@dataclass
class _Pending:
    """A file that is not read yet."""

    signature: Signature
    since: float  # when this signature was first seen
    tried: float | None = None  # last attempt to read
    is_first: bool = False


class Incoming:
    """The files of a folder, or one store or file that grows.

    A file is read when size and time of change were the same for `settle` seconds. If it cannot be read, it is read
    again when it has changed, and every few seconds. After `give_up` seconds without a change it is left out until it
    changes. A file that changes later is read again while its frames are needed.

    Args:
        source: A folder with files, a Zarr folder, or a NetCDF file.
        read: Opens a file as frames.
        report: Receives what happens to files.
        keep: Number of last frames whose values are read at once.
        first: Number of files that are read at the start; the ones that changed last.
        pattern: Names of the files in a folder, as in `Path.glob`.
        settle: Seconds without a change before a file is read.
        give_up: Seconds after which an unreadable file is given up.
        exclude: A folder whose files are no frames.
        clock: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        source: Path,
        read: Callable[[Path], Frames],
        report: Report,
        *,
        keep: int,
        first: int,
        pattern: str = "*",
        settle: float = 2.0,
        give_up: float = 600.0,
        exclude: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._read, self._report = source, read, report
        self._keep, self._first, self._pattern = keep, first, pattern
        self._settle, self._give_up, self._clock = settle, give_up, clock
        self._exclude = None if exclude is None else exclude.resolve()
        self._is_folder = source.is_dir() and not is_store(source)
        self._pending: dict[Path, _Pending] = {}
        self._done: dict[Path, Signature | None] = {}  # None: changes do not matter any more
        self._unreadable: dict[Path, Signature] = {}  # given up until they change
        self._started = False
        self.given_up = 0

    @property
    def pending(self) -> list[Path]:
        """The files that are not read yet."""
        return sorted(self._pending)

    def poll(self) -> list[Delivery]:
        """Return the files that became complete since the last call."""
        now = self._clock()
        present = dict.fromkeys(self._present())
        self._done = {path: signature for path, signature in self._done.items() if path in present}
        self._unreadable = {path: signature for path, signature in self._unreadable.items() if path in present}
        self._pending = {path: pending for path, pending in self._pending.items() if path in present}
        if not self._started:
            self._leave_out_old(present)
        for path in present:
            if self._done.get(path, ()) is not None:
                self._look_at(path, now)
        self._started = True
        ready = [path for path, pending in self._pending.items() if self._is_ready(pending, now)]
        deliveries = (self._try(path, now) for path in sorted(ready))
        return [delivery for delivery in deliveries if delivery is not None]

    def release(self, needed: Iterable[Path]) -> None:
        """Stop looking for changes of the files that were read and are not among the needed ones."""
        self._unreadable = dict(list(self._unreadable.items())[-_MOST_UNREADABLE:])
        kept = set(needed) | set(self._unreadable)
        self._done = {path: signature if path in kept else None for path, signature in self._done.items()}

    def _present(self) -> list[Path]:
        if not self._is_folder:
            return [self._source] if self._source.exists() else []
        # no call of the system for files that were read, of which there may be very many
        return [path for path in self._source.glob(self._pattern) if path in self._done or self._is_frame_file(path)]

    def _is_frame_file(self, path: Path) -> bool:
        name = path.name.lower()
        if name.startswith(".") or name.endswith(("~", *TEMPORARY, *NOT_FRAMES)):
            return False
        if self._exclude is not None and self._exclude in path.resolve().parents:
            return False
        return path.suffix == ".zarr" or not path.is_dir() or is_store(path)

    def _leave_out_old(self, present: Iterable[Path]) -> None:
        """Mark all but the files that changed last as read, at the start."""
        signatures = {path: signature_of(path) for path in present}
        newest = sorted(signatures, key=lambda path: ((signatures[path] or (0, 0, 0))[2], path), reverse=True)
        self._done |= dict.fromkeys(newest[self._first :])

    def _look_at(self, path: Path, now: float) -> None:
        """Note a file that is new or has changed."""
        signature = signature_of(path)
        if signature is None or self._done.get(path) == signature:
            return
        pending = self._pending.get(path)
        if pending is None or pending.signature != signature:
            self._pending[path] = _Pending(signature, now, is_first=not self._started)

    def _is_ready(self, pending: _Pending, now: float) -> bool:
        if now - pending.since < self._settle:
            return False
        return pending.tried is None or now - pending.tried >= RETRY_SECONDS

    def _try(self, path: Path, now: float) -> Delivery | None:
        """Return a file that can be read, and was not changed in the meantime."""
        pending = self._pending[path]
        try:
            frames = self._read(path)
            times = _times(frames)
            last = slice(max(len(times) - self._keep, 0), len(times))
            values = {time: field.copy() for time, field in zip(times[last], frames.read(last), strict=True)}
            if not np.isfinite(values[times[-1]]).any():
                raise DataError(
                    str(path),
                    expected=f"a value in the frame of {_text(times[-1])}",
                    received="missing values only",
                    hint="Write the frame first, or pass other data.",
                )
        except MemoryError:
            raise
        # the libraries raise many types for a file that is being written
        except Exception as error:
            self._failed(path, pending, error, now)
            return None
        if signature_of(path) != pending.signature:
            return None  # the next poll looks at it again
        del self._pending[path]
        self._unreadable.pop(path, None)
        self._done[path] = pending.signature
        return Delivery(path, frames, times, values, pending.signature[2] / 1e9, pending.is_first)

    def _failed(self, path: Path, pending: _Pending, error: Exception, now: float) -> None:
        is_new = pending.tried is None
        pending.tried = now
        values = {"file": str(path), "reason": str(error)}
        if now - pending.since >= self._give_up:
            self.given_up += 1
            del self._pending[path]
            self._done[path] = self._unreadable[path] = pending.signature
            message = f"{path.name}: given up until it changes: {error}"
            self._report(Event("given_up", message, "ERROR", values))
        elif is_new:
            self._report(Event("unreadable", f"{path.name}: not readable yet: {error}", "WARNING", values))


def signature_of(path: Path) -> Signature | None:
    """Return what changes when a file or Zarr folder is written; None if it is not there."""
    try:
        if not path.is_dir():
            status = path.stat()
            return 1, status.st_size, status.st_mtime_ns
        # metadata and folders of the arrays change when a store grows; chunks are too many to look at
        entries = [path, *path.iterdir()]
        inner = [child for entry in entries[1:] if entry.is_dir() for child in entry.iterdir() if _tells(child)]
        statuses = [entry.stat() for entry in (*entries, *inner)]
        size = sum(status.st_size for status in statuses)
        return len(statuses), size, max(status.st_mtime_ns for status in statuses)
    except OSError:
        return None


def _tells(path: Path) -> bool:
    """Return whether an entry of an array's folder is metadata, or the folder of its chunks in format 3."""
    return path.name in {".zarray", "zarr.json", "c"}


def _times(frames: Frames) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    """Return the times of frames; times without dates and of other calendars are an error."""
    times = np.asarray(frames.time.values)
    if times.dtype.kind != "M":
        received = f"the calendar {getattr(times[0], 'calendar', 'unknown')}"
    elif "no dates" in str(frames.time.attrs.get("comment", "")):
        received = "no dates"
    else:
        return times.astype("datetime64[ns]")
    raise DataError(
        frames.time_dim,
        expected="dates of the standard calendar in every file",
        received=received,
        hint="Write the time of each frame into its file.",
    )


def _text(time: np.datetime64) -> str:
    return f"{time.astype('datetime64[m]')}Z"
