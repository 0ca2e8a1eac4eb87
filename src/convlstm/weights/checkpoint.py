"""One file format for weights and run state: safetensors, with the spec as JSON and a digest in the metadata.

The metadata of the file has one entry, `convlstm`, which is JSON with sorted keys and no spaces. The bytes of a file
therefore depend on its content only. `digest` covers the arrays and `seal` the JSON, so that a damaged option is found
like a damaged weight. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from convlstm.errors import ConvLSTMError, WeightsError
from convlstm.files import write_verified
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, check_shapes, check_values, check_weights

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
"""Name of the model file in a run folder, and in a folder of the Hugging Face Hub."""
CONFIG_FILE = "config.json"
"""Name of the file with the options of a model, in a folder of the Hugging Face Hub."""
SPEC_TYPES: dict[str, type[ConvLSTMSpec] | type[ForecasterSpec]] = {"layer": ConvLSTMSpec, "forecaster": ForecasterSpec}
"""Types of specs by the kind of model in a file."""
_ENTRY = "convlstm"
_LONGEST_ENTRY = 2**24  # characters, which JSON expands about twentyfold in memory
_DATA_SIGNATURES = (b"\x89HDF", b"CDF\x01", b"CDF\x02", b"CDF\x05")
_DTYPES = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "|b1": "BOOL", "|u1": "U8"}
_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": float(np.finfo(np.float32).max)}
"""Largest number of each type that is narrower than float64."""


@dataclass(frozen=True)
class Model:
    """The content of a model file.

    Args:
        spec: The layer stack or forecaster.
        weights: Canonical arrays by key.
        extra: Further JSON values of a tool (units, transform, provenance).
        digest: SHA-256 of the weights, the result of `weights_digest`.
    """

    spec: Spec
    weights: Mapping[str, Array]
    extra: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def dtype(self) -> str:
        """The narrowest type of a module that holds every weight: float64 or float32."""
        return "float64" if any(array.dtype == np.float64 for array in self.weights.values()) else "float32"

    def check_range(self, dtype: object) -> None:
        """Refuse a type in which a weight would become infinite.

        Args:
            dtype: A type of any framework, by its name (`float16`, `torch.float16`, ...); others are not checked.

        Raises:
            WeightsError: naming the first weight that is too large.
        """
        name = str(getattr(dtype, "name", dtype)).rpartition(".")[2]
        largest = _LARGEST.get(name, np.inf)
        for key, array in self.weights.items():
            most = float(np.abs(array).max(initial=0.0))
            if most > largest:
                raise WeightsError(
                    key,
                    expected=f"values up to {largest:.3g}, the largest of {name}",
                    received=f"{most:.3g}",
                    hint="Load the model in a type with a larger range.",
                )


def file_error(path: Path, expected: str, received: str, hint: str) -> WeightsError:
    """Return the error of a file that cannot be read."""
    return WeightsError(str(path), expected=expected, received=" ".join(received.split()), hint=hint)


def check_is_file(path: Path, expected: str) -> None:
    """Raise WeightsError for a path that is missing or no plain file."""
    if not path.is_file():
        received = "nothing there" if not path.exists() else "a folder or device"
        raise file_error(path, expected, received, "Correct the path.")


def model_file(path: str | Path) -> Path:
    """Return the path of a model file, or that of the model in a run folder or a folder of the Hugging Face Hub."""
    path = Path(path)
    return path / MODEL_FILE if path.is_dir() else path


def kind_of(spec: Spec) -> str:
    """Return the kind of model in a file: `layer` or `forecaster`."""
    return "forecaster" if isinstance(spec, ForecasterSpec) else "layer"


def weights_digest(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of all arrays: per key, the line `name dtype shape` and the little-endian bytes."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = _portable(key, arrays[key])
        shape = ",".join(str(n) for n in array.shape)
        digest.update(f"{key} {_DTYPES[array.dtype.str]} {shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_model(path: str | Path, spec: Spec, weights: Mapping[str, Array], extra: dict[str, Any] | None = None) -> str:
    """Write a model file atomically.

    Args:
        path: The file to write, usually `*.safetensors`.
        spec: The layer stack or forecaster.
        weights: Canonical arrays; checked against the spec.
        extra: Further JSON values to save.

    Returns:
        The digest of the weights.

    Raises:
        WeightsError: if weights and spec differ, or a weight is not a finite number.
        OutputError: if the file cannot be written, or differs when it is read again; an existing file is unchanged.

    Example:
        >>> import tempfile
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1)
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> digest = save_model(path, spec, initialise(spec, seed=0))
        >>> load_model(path).digest == digest
        True
    """
    check_weights(spec, weights)
    content = {"kind": kind_of(spec), "spec": spec.to_dict(), "extra": extra or {}}
    return save_arrays(path, weights, content)


def load_model(path: str | Path) -> Model:
    """Read a model file: first the spec, then the shapes, then the arrays, then the digest.

    Args:
        path: A file written by `save_model`, or a folder with one as `model.safetensors`.

    Returns:
        Spec, weights, extra and digest.

    Raises:
        WeightsError: if the file is not an intact model file, or a weight is not a finite number. Also if a
            `config.json` in the folder has other options or another digest.
    """
    folder, path = Path(path), model_file(path)
    if folder != path and not path.exists():
        raise file_error(
            folder, f"a model file, or a folder with {MODEL_FILE}", "a folder without it", "Correct the path."
        )
    spec: Spec | None = None

    def check(content: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal spec
        kind = content.get("kind")
        if not isinstance(kind, str) or kind not in SPEC_TYPES:
            raise file_error(path, "a model file", f"kind {kind!r}", "Pass a file written by `save_model`.")
        if not isinstance(content.get("extra", {}), dict):
            raise file_error(path, "a model file", "further values without names", "Save the model again.")
        try:
            spec = SPEC_TYPES[kind].from_dict(content.get("spec", {}))
            check_shapes(spec, shapes)
        except ConvLSTMError as error:
            received = f"a file whose {error.argument} is {error.received}, not {error.expected}"
            raise file_error(
                path, "a model file with a valid spec and its arrays", received, "Save the model again."
            ) from error

    arrays, content, digest = load_arrays(path, check)
    assert spec is not None
    try:
        check_values(arrays)
    except WeightsError as error:
        wanted = f"a model file whose {error.argument} holds {error.expected}"
        raise file_error(path, wanted, str(error.received), error.hint) from error
    model = Model(spec, arrays, content.get("extra", {}), digest)
    if folder != path:
        _check_config(folder / CONFIG_FILE, model)
    return model


def check_intact(path: str | Path) -> tuple[str, str]:
    """Read a model file or the state of a run, and return its kind and the digest of its arrays.

    Args:
        path: A file written by `save_model` or `save_arrays`.

    Returns:
        The kind, such as `forecaster`, `layer` or `run`, and the SHA-256 of the arrays.

    Raises:
        WeightsError: if the file is damaged, is not such a file, or is a model or run with values that are not finite.
    """
    arrays, content, digest = load_arrays(path)
    kind = str(content.get("kind"))
    if kind in SPEC_TYPES:
        load_model(path)  # which checks the spec, the shapes and the values too
        return kind, digest
    for name, array in arrays.items() if kind == "run" else ():  # arrays of scores may have missing values
        if not np.isfinite(array).all():
            received = f"{array.size - np.count_nonzero(np.isfinite(array))} of {array.size} in {name} that are not"
            raise file_error(Path(path), "finite numbers", received, "Train again, or use an earlier state.")
    return kind, digest


def _check_config(path: Path, model: Model) -> None:
    """Raise an error for a `config.json` of another model than the file, because it would have no effect."""
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        options, digest = config["spec"], config["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        options = digest = None
    is_other_model = options != json.loads(_to_json(model.spec.to_dict()))
    if is_other_model or digest != model.digest:
        raise file_error(
            path,
            f"the options and the digest of {MODEL_FILE}, as `convlstm export --format hub` writes them",
            "none" if options is None else "other options" if is_other_model else "another digest",
            f"Delete {CONFIG_FILE}, or write the folder again.",
        )


def save_arrays(path: str | Path, arrays: Mapping[str, Array], content: dict[str, Any]) -> str:
    """Write named arrays (float, integer or bool) and JSON values to one safetensors file; return the digest.

    The file is read again from the disk before it replaces an older one.
    """
    digest = weights_digest(arrays)
    plain = json.loads(_to_json({"format": FORMAT_VERSION, "digest": digest, **content}))
    entry = _to_json(plain | {"seal": _seal(plain)})
    portable = {key: _portable(key, arrays[key]) for key in sorted(arrays)}
    data = save(portable, metadata={_ENTRY: entry})
    write_verified(path, data)
    return digest


def load_arrays(path: str | Path, check: Any = None) -> tuple[dict[str, Array], dict[str, Any], str]:
    """Return the arrays, the JSON content and the digest of a file written by `save_arrays`.

    `check` is a function of the content and the shapes by key, called before any array is read; it may raise.
    """
    path = Path(path)
    check_is_file(path, "a safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            content = _read_entry(path, file.metadata())
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            foreign = {part.get_dtype() for part in slices.values()} - set(_DTYPES.values())
            if foreign:
                raise file_error(
                    path, f"arrays of {', '.join(_DTYPES.values())}", min(foreign), "Convert the arrays first."
                )
            if check is not None:
                check(content, shapes)
            arrays = {key: file.get_tensor(key) for key in sorted(shapes)}
    except (SafetensorError, OSError) as error:
        if _is_data(path):
            raise file_error(
                path, "a model file", "a data file (NetCDF or HDF5)", "Pass the model first, then the data."
            ) from error
        raise file_error(path, "an intact safetensors file", str(error), "Copy or download the file again.") from error
    digest = weights_digest(arrays)
    if digest != content.get("digest"):
        raise file_error(path, "intact arrays", "arrays with another digest", "Copy or download the file again.")
    return arrays, content, digest


def _is_data(path: Path) -> bool:
    """Return whether a file begins as NetCDF or HDF5 files do."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _DATA_SIGNATURES
    except OSError:
        return False


def _read_entry(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        entry = (metadata or {})[_ENTRY]
        if len(entry) > _LONGEST_ENTRY:
            raise file_error(
                path, f"at most {_LONGEST_ENTRY:,} characters of options", f"{len(entry):,}", "Save the model again."
            )
        content = json.loads(entry)
        version = content["format"]
        intact = content.pop("seal", None) == _seal(content)
    except WeightsError:  # a ValueError too
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise file_error(
            path, "a file written by convlstm", "other metadata", "Convert the file with `convlstm convert`."
        ) from error
    if version != FORMAT_VERSION:
        raise file_error(
            path, f"format {FORMAT_VERSION}", f"format {version!r}", "Install a newer version of convlstm."
        )
    if not intact:
        raise file_error(path, "intact options", "options that were changed", "Copy or download the file again.")
    return dict(content)


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _seal(content: dict[str, Any]) -> str:
    # NaN is allowed here: a foreign file with NaN then fails the comparison of the seal
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _portable(key: str, array: Array) -> Array:
    result = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
    if result.dtype.str in _DTYPES:
        return result
    raise WeightsError(
        key,
        expected=f"one of {', '.join(_DTYPES.values())}",
        received=array.dtype,
        hint="Convert the array first.",
    )
