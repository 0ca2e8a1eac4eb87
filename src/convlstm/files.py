"""Write files atomically, so that no file is left half written and none is lost.

New content is written into a temporary folder next to the target, and then moved. The folder is locked as long as its
process runs, so that the next write can remove what a killed process left.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from convlstm.errors import OutputError

DRAFT = ".convlstm-draft"
"""End of the names of the temporary folders."""

_REPLACED = "~"  # end of the name of a replaced folder, in a temporary folder, until the new one is in its place
_AT_FDCWD = -100  # of renameat2: paths are relative to the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS


def write_atomic(path: str | Path, write: Callable[[Path], object], *, size: int | None = None) -> Path:
    """Write a file or folder atomically: `write` fills a temporary path, which then replaces the target.

    The old content stays until the new content is complete and on disk: write, fsync, rename, fsync of the folder.
    A symbolic link stays, and what it leads to is replaced. `size` is the number of bytes, for the message of a full
    disk.
    """
    path = Path(path)
    check_writable(path)
    target = _followed(path)
    with output_errors(path, size):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(target.parent)
        with _tmp_dir(target) as tmp_dir:
            draft = tmp_dir / target.name
            write(draft)
            move_into_place(draft, target)
    return path


def write_verified(path: str | Path, content: bytes) -> Path:
    """Write a file atomically, and read it again from the disk before it replaces the old one.

    Raises:
        OutputError: if the file cannot be written, or other bytes are read than were written. The old content stays.
    """

    def write(draft: Path) -> None:
        draft.write_bytes(content)
        _sync_one(draft)
        if _digest_on_disk(draft) != hashlib.sha256(content).digest():
            raise OutputError(
                str(path),
                expected="the bytes that were written",
                received="other bytes when the file was read again",
                hint="Check the disk, or choose another path. The old content is unchanged.",
            )

    return write_atomic(path, write, size=len(content))


def _digest_on_disk(path: Path) -> bytes:
    """Return the SHA-256 of a file, read from the device where the system can drop its copy in memory."""
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # Linux; elsewhere the copy in memory may be read
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def output_errors(path: str | Path, size: int | None = None) -> Iterator[None]:
    """Raise an `OutputError` with the path, and the bytes to be written if known, where the system cannot write."""
    try:
        yield
    except OutputError:
        raise  # already has its message
    except OSError as error:
        raise OutputError(
            str(path),
            expected="a path with enough free space"
            if size is None or error.errno != errno.ENOSPC
            else f"a path with {size:,} bytes of free space",
            received=str(error.strerror or error) + _free_space(Path(path), error),
            hint="Free space or choose another path. The old content is unchanged.",
        ) from error


def _free_space(path: Path, error: OSError) -> str:
    """Return the free space for an error about a full disk, as the end of a sentence; nothing for another error."""
    if error.errno != errno.ENOSPC:
        return ""
    try:
        folder = next(folder for folder in path.resolve().parents if folder.exists())
        return f", where {shutil.disk_usage(folder).free:,} bytes are free"
    except OSError:
        return ""


def move_into_place(draft: Path, path: Path) -> None:
    """Replace a file or folder by a complete one next to it, which is removed: fsync, rename, fsync of the folder."""
    target = _followed(path)
    _check_kind(target, folder=draft.is_dir())
    _sync(draft)
    _put(draft, target)
    _sync_one(target.parent)
    for old in (draft, draft.with_name(draft.name + _REPLACED)):
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder, which no other process sees in part.

    What a killed process leaves of it is removed by the next write into the same parent folder.
    """
    with _tmp_dir(folder) as tmp_dir:
        os.replace(folder, tmp_dir / folder.name)


def complete_replacement(draft: Path, path: Path) -> None:
    """Put back or remove an old folder that a process left next to its draft when it was killed in `move_into_place`.

    It leaves one only where two folders cannot be exchanged in one step.
    """
    target = _followed(path)
    old = draft.with_name(draft.name + _REPLACED)
    if not old.exists():
        return
    if target.exists():
        remove_folder(old)
    else:
        os.replace(old, target)


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left in a folder; complete first the replacement of a folder that they began.

    The temporary folders of running processes are locked, and stay. Where the system cannot lock a folder, all stay.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if not name.endswith(DRAFT):
            continue
        tmp_dir = folder / name
        try:
            lock = _lock(tmp_dir)
        except OSError:
            continue
        try:
            _complete(tmp_dir)
            shutil.rmtree(tmp_dir, ignore_errors=True)
        except OSError:
            continue  # it stays, because it has the only copy of a folder that cannot be put in its place
        finally:
            os.close(lock)


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
    path = _followed(path)
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


def _followed(path: Path) -> Path:
    """Return the path to which a symbolic link leads, or the path itself."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OutputError(
            str(path),
            expected="a link to a file or folder",
            received="a link that leads to itself",
            hint="Remove the link or choose another path.",
        )
    return target


@contextmanager
def _tmp_dir(target: Path) -> Iterator[Path]:
    """Yield a new folder next to a target, locked until the end of the block, where it is removed."""
    lock: int | None = None
    while True:
        tmp_dir = Path(tempfile.mkdtemp(prefix=f".{target.name[:32]}.", suffix=DRAFT, dir=target.parent))
        try:
            lock = _lock(tmp_dir)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process removes it
        except OSError:
            break  # this system has no such locks, so that no process removes it
        if tmp_dir.exists():
            break
        os.close(lock)  # removed before it was locked
    try:
        yield tmp_dir
    finally:
        shutil.rmtree(tmp_dir, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder until the returned descriptor is closed or the process ends; a locked one is an OSError."""
    if sys.platform == "win32":
        raise OSError("folders cannot be locked")
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _put(draft: Path, path: Path) -> None:
    """Move the draft to the target; an old folder goes to the temporary folder, which is removed."""
    if not path.is_dir():
        os.replace(draft, path)
        return
    if _exchange(draft, path):
        return
    old = draft.with_name(draft.name + _REPLACED)
    _sync_one(draft.parent)  # the new folder has to be found in it after a loss of power between the two moves
    os.replace(path, old)
    try:
        os.replace(draft, path)
    except BaseException:
        os.replace(old, path)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system or the file system cannot."""
    paths = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "linux":
            function = ctypes.CDLL(None).renameat2
            return bool(function(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_EXCHANGE)) == 0)
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(*paths, ctypes.c_uint(_EXCHANGE)) == 0)
    except (AttributeError, OSError):  # a C library without this function
        pass
    return False


def _complete(tmp_dir: Path) -> None:
    """Put a whole new folder in its place, if a process was killed between the two moves of `_put`."""
    for old in tmp_dir.glob(f"*{_REPLACED}"):
        name = old.name.removesuffix(_REPLACED)
        new, target = tmp_dir / name, tmp_dir.parent / name
        if new.exists() and not os.path.lexists(target):
            os.replace(new, target)


def _sync(path: Path) -> None:
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
