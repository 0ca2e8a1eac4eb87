"""Where data is: paths, patterns and addresses, and local copies of what is compressed or remote."""

from __future__ import annotations

import bz2
import glob
import gzip
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import xarray as xr

from convlstm.data.formats.kinds import SUFFIXES, find_kind
from convlstm.data.formats.packages import load_package
from convlstm.data.formats.sizes import check_size
from convlstm.data.formats.zarr_store import GROUP_METADATA, is_store
from convlstm.errors import ConvLSTMError, DataError
from convlstm.files import remove_drafts

Source = str | Path | Sequence[str | Path]
"""A path, a pattern, a folder or an address, or several of these."""

MOST_EXPANDED = 4 * 2**30
"""Maximum size in bytes of a file after decompression."""

MOST_COPIED = 16 * 2**30
"""Maximum size in bytes of the copy of a remote file."""

PROTOCOLS = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "memory": "fsspec"}
"""Protocols of addresses, with the package that each needs."""

_BLOCK = 2**20
_COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2"}
_LOST_SLASH = re.compile(rf"({'|'.join(PROTOCOLS)}):/(?=[^/])")


def find_places(source: Source) -> list[str]:
    """Return the files and stores of a source, sorted by name within each pattern and folder."""
    if isinstance(source, str | Path):
        return _expand(_text(source))
    places = [place for one in source for place in _expand(_text(one))]
    if not places:
        raise DataError("paths", expected="at least one path", received="none", hint="Pass a file or folder.")
    return places


def local_files(source: Source) -> list[Path]:
    """Return the paths of a source that exist on this machine, to protect them from being overwritten."""
    try:
        return [Path(place) for place in find_places(source) if not is_address(place)]
    except ConvLSTMError:
        return []  # reading reports it


def name_of(source: Source | xr.Dataset) -> str:
    """Return a source as a short text for messages."""
    if isinstance(source, xr.Dataset):
        return "data"
    if isinstance(source, str | Path):
        return _text(source)
    texts = [_text(one) for one in source]
    if len(texts) < 2:
        return "".join(texts)
    return f"{len(texts)} paths from {texts[0]} to {texts[-1]}"


def is_address(place: str) -> bool:
    """Return whether a place is read through fsspec."""
    return "://" in place


def is_remote_store(address: str) -> bool:
    """Return whether an address is that of a Zarr group."""
    suffix = Path(_uncompressed(address.partition("?")[0].rstrip("/"))).suffix.lower()
    if suffix == ".zarr":
        return True
    if suffix in SUFFIXES:
        return False
    files, path = file_system(address)
    return any(files.exists(f"{path.rstrip('/')}/{name}") for name in GROUP_METADATA)


def file_system(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it."""
    protocol = address.partition("://")[0].lower()
    if protocol not in PROTOCOLS:
        raise DataError(
            address,
            expected=f"an address with {', '.join(PROTOCOLS)}",
            received=protocol,
            hint="Copy the data to this machine, or to a server of such a protocol.",
        )
    load_package(PROTOCOLS[protocol], "remote", address)
    files, path = load_package("fsspec", "remote", address).core.url_to_fs(address)
    return files, str(path)


class LocalCopy:
    """A local file with the content of a place: the file itself, or a temporary copy that `close` removes."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._folder: Path | None = None
        self._remove: Callable[[], object] | None = None
        self.path = Path(place)
        try:
            if is_address(place):
                self.path = self._download()
            suffix = _compression(self.path)
            if suffix is not None:
                self.path = self._expanded(suffix)
        except BaseException:
            self.close()
            raise

    @property
    def is_temporary(self) -> bool:
        """Whether the file is a copy."""
        return self._folder is not None

    def close(self) -> None:
        """Remove a temporary copy."""
        if self._remove is not None:
            self._remove()

    def rename(self, error: ConvLSTMError) -> ConvLSTMError:
        """Return an error with the name of the place instead of that of its copy."""
        if not self.is_temporary:
            return error
        parts = [str(part).replace(str(self.path), self.place) for part in (error.argument, error.expected, error.hint)]
        received = str(error.received).replace(str(self.path), self.place)
        return type(error)(parts[0], expected=parts[1], received=received, hint=parts[2])

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which does not remove the copy."""
        return {"place": self.place, "path": self.path, "_folder": self._folder, "_remove": None}

    def _temporary(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="convlstm-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _download(self) -> Path:
        files, path = file_system(self.place)
        target = self._temporary() / Path(path.partition("?")[0]).name
        try:
            with files.open(path, "rb") as source:
                _copy(source, target, self.place, MOST_COPIED)
        except (OSError, TimeoutError) as error:
            cause = error.__cause__ or error.__context__ or error
            raise DataError(
                self.place,
                expected="an address that answers",
                received=(str(cause).splitlines() or [type(cause).__name__])[0][:200],
                hint="Correct the address, or check the network and your access.",
            ) from error
        return target

    def _expanded(self, suffix: str) -> Path:
        target = self._temporary() / "expanded" / _uncompressed(self.path.name)
        target.parent.mkdir()
        try:
            with _COMPRESSED[suffix](self.path, "rb") as source:
                _copy(source, target, self.place, MOST_EXPANDED)
        except (OSError, EOFError) as error:
            raise DataError(
                self.place,
                expected="a compressed file that is whole",
                received=str(error)[:200] or type(error).__name__,
                hint="Download the file again.",
            ) from error
        if self.path.parent == self._folder:
            self.path.unlink()  # the compressed download
        return target


def _copy(source: IO[bytes], target: Path, name: str, most: int) -> None:
    """Copy a stream to a file; stop with an error after `most` bytes."""
    done = 0
    with target.open("wb") as file:
        while block := source.read(_BLOCK):
            done += len(block)
            check_size(name, done, most)
            file.write(block)


def _text(one: str | Path) -> str:
    """Return a place as text, with the slash that an address loses as a `Path`."""
    text = re.sub("^file:(//)?(?=/)", "", str(one))
    return _LOST_SLASH.sub(r"\1://", text, count=1) if _LOST_SLASH.match(text) else text


def _expand(text: str) -> list[str]:
    if is_address(text):
        return _expand_address(text)
    path = Path(text)
    if not path.exists() and not glob.has_magic(text):
        remove_drafts(path.parent)  # which completes the replacement of a store by a process that was killed in it
    if path.is_dir() and not is_store(path):
        return _files_in(path)
    if not path.exists() and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise DataError(text, expected="a pattern of files", received="no match", hint="Correct the pattern.")
        return matches
    return [text]


def _expand_address(address: str) -> list[str]:
    files, path = file_system(address)
    if glob.has_magic(path.partition("?")[0]):
        found = sorted(files.glob(path))
    elif is_remote_store(address) or _is_named_as_data(path) or not files.isdir(path):
        return [address]
    else:
        found = sorted(one for one in files.ls(path, detail=False) if _is_named_as_data(one))
    if not found:
        raise DataError(address, expected="files of a known kind", received="none", hint="Correct the address.")
    return [files.unstrip_protocol(one) for one in found]


def _is_named_as_data(name: str) -> bool:
    """Return whether the ending of a name, without that of a compression, is that of a kind that is read."""
    return Path(_uncompressed(name.rstrip("/"))).suffix.lower() in SUFFIXES


def _files_in(folder: Path) -> list[str]:
    """Return the files and stores in a folder; files of other kinds are left out."""
    found = [str(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".") and _is_data(path)]
    if not found:
        raise DataError(
            str(folder),
            expected="files of a kind that is read, or a Zarr store",
            received="a folder without Zarr metadata and without such a file",
            hint="Correct the path.",
        )
    return found


def _is_data(path: Path) -> bool:
    if path.is_dir():
        return is_store(path)
    if not path.is_file():
        return False
    name = Path(_uncompressed(path.name))
    return name != Path(path.name) or name.suffix.lower() in SUFFIXES or find_kind(path) is not None


def _compression(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(3)
    return next((suffix for magic, suffix in _MAGIC.items() if start.startswith(magic)), None)


def _uncompressed(name: str) -> str:
    """Return a name without the suffix of a compression."""
    path = Path(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in _COMPRESSED else name
