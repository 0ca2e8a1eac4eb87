"""What an export returns, and the checks of its path and packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from convlstm.errors import DependencyError, OutputError, install
from convlstm.files import check_writable

SUFFIXES = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "aoti": ".pt2",
    "stablehlo": ".stablehlo",
    "savedmodel": "",
    "litert": ".tflite",
    "hub": "",
}
"""The suffix of a file by format; a SavedModel and a folder of the Hugging Face Hub have none."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared with the reference.

    Args:
        path: The file or folder.
        inputs: Type and sizes of the inputs by name, such as `float32 (batch, time, 1, height, width)`.
        outputs: The same for the outputs.
        difference: Largest difference from the reference, relative to the largest value of an output above 1.
    """

    path: Path
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    difference: float


def check_path(path: str | Path, kind: str) -> Path:
    """Return the path of a file of a format, or raise an error for another suffix or a path that cannot be written."""
    path, suffix = Path(path), SUFFIXES[kind]
    if path.suffix != suffix:
        raise OutputError(
            str(path),
            expected=f"a name that ends in {suffix}" if suffix else "the name of a folder, without a suffix",
            received=repr(path.suffix) if path.suffix else "no suffix",
            hint=f"Pass `{path.with_suffix(suffix)}`, or choose another format.",
        )
    check_writable(path, folder=not suffix)
    return path


def load_package(name: str, extra: str) -> Any:
    """Import an optional package, or raise an error that names the extra that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(
            name.partition(".")[0],
            expected="the package installed",
            received=f"no module {error.name!r}",
            hint=f"Run: {install(extra)}.",
        ) from error


def described(kind: str, dims: Any) -> str:
    """Return type and sizes in words.

    Example:
        >>> described("float32", ["batch", 1, None])
        'float32 (batch, 1, ?)'
    """
    sizes = ", ".join("?" if dim is None else str(dim) for dim in dims)
    return f"{kind} ({sizes},)" if len(list(dims)) == 1 else f"{kind} ({sizes})"
