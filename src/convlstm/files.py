"""Write files atomically, so that no file is left half written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from convlstm.errors import OutputError


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file or folder to a temporary folder next to its target, then move it to the target.

    The old content stays until the new content is complete and on disk: write, fsync, rename, fsync of the folder.

    Args:
        path: Path of the result.
        write: Function that writes the result to the temporary path it receives (a file, or a folder for Zarr).

    Returns:
        The path written.

    Raises:
        OutputError: if the path cannot be written, or a file would replace a folder. The old content is unchanged.

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
        raise  # already has its message
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a path with enough free space",
            received=str(error.strerror or error),
            hint="Free space or choose another path. The old content is unchanged.",
        ) from error
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)
    return path


def check_writable(path: str | Path, *, folder: bool | None = None) -> None:
    """Raise an error early if a path cannot be written, before hours of work.

    Args:
        path: Path of a file or folder that is written later.
        folder: True for a folder, False for a file, None if unknown. A file must not replace a folder, or the reverse.

    Raises:
        OutputError: if the nearest existing folder is not writable, or the path is neither a plain file nor a folder.

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
            hint="Choose another path.",
        )
    nearest = path.parent
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputError(
            str(path),
            expected="a folder that can be written",
            received=f"{nearest}, which is {'read-only' if nearest.is_dir() else 'not a folder'}",
            hint="Choose another path or change its permissions.",
        )


def _check_kind(path: Path, folder: bool) -> None:
    """Raise an error if a file would replace a folder and delete its content, or the reverse."""
    if path.is_file() if folder else path.is_dir():
        new, existing = ("a folder", "a file") if folder else ("a file", "a folder")
        raise OutputError(
            str(path), expected=f"a path for {new}", received=f"{existing} of that name", hint="Choose another path."
        )


def _put(draft: Path, path: Path, room: Path) -> None:
    """Move the draft to the target; restore an existing folder if the move fails."""
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
        return  # Windows cannot open a folder, and writes names itself
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_apart(output: str | Path, *inputs: str | Path) -> None:
    """Raise an error if the output would overwrite an input.

    Args:
        output: Path of the result.
        inputs: Files and folders that are read, or that belong to an input.

    Raises:
        OutputError: if the output is one of the inputs.

    Example:
        >>> check_apart("forecast.nc", "rain.nc")
    """
    output = Path(output)
    for path in map(Path, inputs):
        if output.exists() and path.exists() and output.samefile(path):
            raise OutputError(
                str(output),
                expected="a path other than the inputs",
                received="one of the inputs",
                hint="Choose another --output.",
            )
