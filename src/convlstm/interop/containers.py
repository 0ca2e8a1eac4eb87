"""Files of named arrays: safetensors, `.npz`, HDF5 of Keras, and checkpoints of PyTorch."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from convlstm.errors import OutputError, WeightsError
from convlstm.files import write_atomic
from convlstm.interop import hdf5, torch_file
from convlstm.spec.types import Array
from convlstm.weights.checkpoint import check_is_file, file_error

_PLAIN = "Save plain arrays in the framework that wrote the file: numpy.savez('weights.npz', **arrays)."
# these can hold code or need the framework that wrote them, so they are not opened
_REFUSED = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".npy", ".msgpack", ".index"), _PLAIN),
    ".keras": "Run in Keras: model.save_weights('model.weights.h5').",
}
# weights hardly compress: a large file with this ratio is an attack on the memory
_LARGE, _EXPANSION, _MOST_MEMBERS = 1 << 28, 20, 10_000


def read_arrays(path: str | Path) -> dict[str, Array]:
    """Read every array of a file by name; nothing in it is executed, and sizes are checked before allocation.

    Of a PyTorch checkpoint the arrays are those of its `state_dict`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        raise file_error(path, ", ".join(_READERS), f"a {suffix} file", _REFUSED[suffix])
    if suffix not in _READERS:
        raise file_error(path, f"a file named {', '.join(_READERS)}", suffix or "no ending", _PLAIN)
    check_is_file(path, "a file of weights")
    return _READERS[suffix](path)


def write_arrays(path: str | Path, arrays: Mapping[str, Array]) -> Path:
    """Write named arrays to one `*.safetensors`, `*.npz` or `*.h5` atomically; return the path."""
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise OutputError(
            str(path),
            expected=f"a name ending in {', '.join(_WRITERS)}",
            received=path.suffix or "no ending",
            hint=f"Use a name such as {path.stem}.safetensors.",
        )
    return write_atomic(path, lambda draft: _WRITERS[path.suffix.lower()](draft, arrays))


def _read_safetensors(path: Path) -> dict[str, Array]:
    try:
        with safe_open(path, framework="numpy") as file:
            types = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (no mapping)
            low = sorted(types - {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
            if low:
                raise file_error(path, "float16, float32 or float64", low[0], "Save the arrays as float32.")
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise file_error(path, "an intact safetensors file", str(error), "Copy or download the file again.") from error


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (WeightsError, MemoryError):
        raise
    # the libraries raise many types for a damaged file: OSError, zlib.error, lzma.LZMAError, tokenize.TokenError
    except Exception as error:
        raise file_error(
            path, "an intact .npz file of plain arrays", str(error), "Save the arrays again with numpy.savez."
        ) from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise an error for an archive that unpacks to much more than its size, and for a wrong size of a member."""
    members, size = archive.infolist(), path.stat().st_size
    unpacked, packed = (sum(getattr(member, name) for member in members) for name in ("file_size", "compress_size"))
    # entries that overlap unpack the same bytes again and again
    if len(members) > _MOST_MEMBERS or packed > size or unpacked > max(_LARGE, _EXPANSION * size):
        received = f"{len(members):,} arrays of {unpacked:,} bytes in a file of {size:,}"
        raise file_error(path, f"at most {_MOST_MEMBERS:,} arrays that hardly compress", received, _PLAIN)
    for member in members:
        _check_member(path, archive, member)


def _check_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise an error for a member whose header gives a wrong size."""
    with archive.open(member) as stream:
        promised = _promised(path, member.filename, stream)
        follows = member.file_size - stream.tell()
    if promised != follows:
        received = f"{member.filename} of {promised:,} bytes in {member.compress_size:,}"
        raise file_error(path, "arrays of the size in their headers", received, "Save the arrays again.")


def _promised(path: Path, name: str, stream: IO[bytes]) -> int:
    """Return the number of data bytes in the header of an `.npy`; objects raise an error, because they need pickle."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise file_error(path, "plain numbers", f"{name}, which holds Python objects", _PLAIN)
    return math.prod(shape) * int(dtype.itemsize)


def _write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    path.write_bytes(save({key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)}))


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    with path.open("wb") as file:
        named: dict[str, Any] = {key: arrays[key] for key in sorted(arrays)}
        np.savez(file, **named)


_READERS: dict[str, Callable[[Path], dict[str, Array]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".h5": hdf5.read,
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".tar"), torch_file.read),
}
_WRITERS: dict[str, Callable[[Path, Mapping[str, Array]], None]] = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".h5": hdf5.write,
}
