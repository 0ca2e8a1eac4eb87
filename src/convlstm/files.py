"""Write files atomically, so that no file is left half written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from convlstm.errors import OutputError


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file or folder atomically: `write` fills a temporary path, which then replaces the target.

    The old content stays until the new content is complete and on disk: write, fsync, rename, fsync of the folder.
    """
    path = Path(path)
    check_writable(path)
    tmp_dir: Path | None = None
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            tmp_dir = Path(tempfile.mkdtemp(prefix=f".{path.name[:32]}.", dir=path.parent))
            draft = tmp_dir / path.name
            write(draft)
            move_into_place(draft, path)
    finally:
        if tmp_dir is not None:
            shutil.rmtree(tmp_dir, ignore_errors=True)
    return path


@contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Raise an `OutputError` that names the path where the system cannot write."""
    try:
        yield
    except OutputError:
        raise  # already has its message
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a path with enough free space",
            received=str(error.strerror or error),
            hint="Free space or choose another path. The old content is unchanged.",
        ) from error


def move_into_place(draft: Path, path: Path) -> None:
    """Replace a file or folder by a complete one next to it: fsync, rename, fsync of the folder."""
    _check_kind(path, folder=draft.is_dir())
    sync(draft)
    _put(draft, path)
    _sync_one(path.parent)


def check_suffix(path: str | Path, suffixes: Sequence[str]) -> None:
    """Raise an error for a file name that ends in none of these, because the content would be of another kind."""
    path = Path(path)
    if path.suffix not in suffixes:
        listed = suffixes[0] if len(suffixes) == 1 else f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise OutputError(
            str(path),
            expected=f"a name that ends in {listed}",
            received=repr(path.suffix) if path.suffix else "no such ending",
            hint="Choose a name with one of these endings." if len(suffixes) > 1 else f"Write {path.stem}{listed}.",
        )


def check_writable(path: str | Path, *, folder: bool | None = None) -> None:
    """Raise an error early if a path cannot be written; `folder` is True for a folder and False for a file."""
    path = Path(path)
    if path.parts[:1] == ("-",):
        raise OutputError(
            "-",
            expected="the name of a file or folder",
            received="the sign for standard output",
            hint="Pass a name; results are not written to standard output.",
        )
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
    if folder and path.is_file():
        expected, received = "a path for a folder", "a file of that name"
    elif not folder and path.is_dir():
        expected, received = "a path for a file", "a folder of that name"
    else:
        return
    raise OutputError(str(path), expected=expected, received=received, hint="Choose another path.")


def _put(draft: Path, path: Path) -> None:
    """Move the draft to the target; restore an existing folder if the move fails."""
    if not path.is_dir():
        os.replace(draft, path)
        return
    old = path.parent / f"{draft.parent.name}.old"
    os.replace(path, old)
    try:
        os.replace(draft, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with everything in it, is on disk."""
    if path.is_dir():
        for inner in path.rglob("*"):
            _sync_one(inner)
    _sync_one(path)


def sync_files(files: Iterable[Path]) -> None:
    """Wait until files, and their names in their folders, are on disk."""
    folders = set()
    for file in files:
        _sync_one(file)
        folders.add(file.parent)
    for folder in folders:
        _sync_one(folder)


def _sync_one(path: Path) -> None:
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows cannot open a folder, and writes names itself
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_not_input(output: str | Path, *inputs: str | Path) -> None:
    """Raise an error if the output would overwrite an input."""
    output = Path(output)
    for path in map(Path, inputs):
        if output.exists() and path.exists() and output.samefile(path):
            raise OutputError(
                str(output),
                expected="a path other than the inputs",
                received="one of the inputs",
                hint="Choose another --output.",
            )
