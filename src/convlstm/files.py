"""Writing files so that nothing is ever half written or lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from convlstm.errors import OutputError


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file or folder beside its place, then move it there: a file in one step, a folder's old one first.

    The old content stays until the new one is complete and on disk: write, fsync, rename, fsync of the folder.

    Args:
        path: Where the result shall stand.
        write: Writes the result to the path it is given (a file, or a folder as Zarr makes).

    Returns:
        The path written.

    Raises:
        OutputError: if the place cannot be written, or a file would take the place of a folder; whatever stood there
            before still stands.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "a.txt", lambda p: p.write_text("whole")).read_text()
        'whole'
    """
    path = Path(path)
    check_writable(path)
    room: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
        draft = room / path.name
        write(draft)
        _check_kind(path, folder=draft.is_dir())
        _sync(draft)
        _put(draft, path, room)
        _sync_one(path.parent)
    except OutputError:
        raise  # already in its words
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a place with room to write",
            received=str(error.strerror or error),
            hint="free space or choose another path; the old content is untouched.",
        ) from error
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)
    return path


def check_writable(path: str | Path, *, folder: bool | None = None) -> None:
    """Refuse early a place that cannot be written, before hours of work.

    Args:
        path: Where a file or folder shall be written later.
        folder: Which of the two it will be, where that is known: neither may take the place of the other.

    Raises:
        OutputError: if the nearest existing folder is not writable, or the path is something else than a
            plain file or folder.

    Example:
        >>> check_writable("results.csv")
    """
    path = Path(path)
    if folder is not None:
        _check_kind(path, folder)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(
            str(path),
            expected="a plain file or folder",
            received="a device or pipe",
            hint="choose another path.",
        )
    around = path.parent
    while not around.exists():
        around = around.parent
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise OutputError(
            str(path),
            expected="a folder that can be written",
            received=f"{around}, which is {'read-only' if around.is_dir() else 'no folder'}",
            hint="choose another path or change its permissions.",
        )


def _check_kind(path: Path, folder: bool) -> None:
    """Refuse to put a file in the place of a folder, which would take all that is in it away, or the reverse."""
    if path.is_file() if folder else path.is_dir():
        wanted, there = ("a folder", "a file") if folder else ("a file", "a folder")
        raise OutputError(
            str(path), expected=f"a place for {wanted}", received=f"{there} of that name", hint="choose another path."
        )


def _put(draft: Path, path: Path, room: Path) -> None:
    """Move the draft to its place; a folder that stood there goes back should the move fail."""
    if not path.is_dir():
        os.replace(draft, path)
        return
    old = room.parent / f"{room.name}.old"
    os.replace(path, old)
    try:
        os.replace(draft, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    if path.is_dir():
        for inner in path.rglob("*"):
            _sync_one(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows opens no folder, and flushes names by itself
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_apart(output: str | Path, *inputs: str | Path) -> None:
    """Refuse to write over what is read, which may be all that somebody has of it.

    Args:
        output: Where a result shall stand.
        inputs: Files and folders that are read, or that belong to what is read.

    Raises:
        OutputError: if the output is one of them.

    Example:
        >>> check_apart("forecast.nc", "rain.nc")
    """
    output = Path(output)
    for path in map(Path, inputs):
        if output.exists() and path.exists() and output.samefile(path):
            raise OutputError(
                str(output),
                expected="another file than those that are read",
                received="one of them",
                hint="choose another --output.",
            )
