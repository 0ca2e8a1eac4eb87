"""A lock on an output folder, so that two processes never write into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from convlstm.errors import OutputError


@contextmanager
def locked(folder: Path, activity: str) -> Iterator[None]:
    """Create a folder and lock it for one activity, such as a training; another process there is an `OutputError`.

    The system releases the lock when this process ends, however it ends.
    """
    with _output_errors(folder):
        file = _opened(folder)
    try:
        while True:
            if not _lock(file):
                file.seek(0)
                raise _in_use(folder, activity, file.read().strip())
            if _is_at(file, folder):
                break
            file.close()  # another process removed the folder between opening and locking
            with _output_errors(folder):
                file = _opened(folder)
        with _output_errors(folder):
            file.truncate(0)
            file.write(str(_process()))
            file.flush()
        yield
    finally:
        with suppress(OSError):  # of a full disk, which has been reported
            file.close()


def _opened(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / ".lock").open("a+", encoding="utf-8")


def _is_at(file: IO[str], folder: Path) -> bool:
    """Return whether an open lock file is still the one of the folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(folder / ".lock"))
    except OSError:
        return False


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            str(folder),
            expected="a folder that can be created and written",
            received=str(error.strerror or error),
            hint="Free space, or choose another `--output`.",
        ) from error


def check_unlocked(folder: Path, activity: str) -> None:
    """Raise an `OutputError` if another process has locked a folder."""
    try:
        with (folder / ".lock").open("r+", encoding="utf-8") as file:
            if _lock(file):
                return
            process = file.read().strip()
    except OSError:  # no such file, or one that cannot be opened
        return
    if process != str(_process()):
        raise _in_use(folder, activity, process)


def _process() -> int:
    """Return the number of this process, which the lock file holds."""
    return os.getpid()


def _in_use(folder: Path, activity: str, process: str) -> OutputError:
    article = "an" if activity[0] in "aeiou" else "a"
    return OutputError(
        str(folder),
        expected=f"no other {activity} in this folder",
        received=f"{article} {activity} in process {process or 'unknown'}",
        hint="Wait until it ends, or choose another `--output`.",
    )


def _lock(file: IO[str]) -> bool:
    """Return whether this process has locked the file."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**20)  # after the text, so that other processes can read the text
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
