"""Checkpoints of PyTorch that hold tensors only. This is the one file that calls `torch.load`."""

from __future__ import annotations

import pickle  # for its exception only
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from convlstm.errors import DependencyError, install
from convlstm.spec.types import Array
from convlstm.weights.checkpoint import file_error

_HINT = "In its own environment, save the state dict alone: torch.save(model.state_dict(), 'state.pth')."
# where training scripts keep the state_dict of the model, in order of preference
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
# entries of an optimiser, such as `optimizer_state_dict` and `optim_g`, whose tensors are no weights
_OPTIMISER = re.compile(r"(.*_)?[Oo]ptim(i[sz]er)?s?([_A-Z\d].*)?")
# before it, a file could corrupt memory and run code in spite of `weights_only` (CVE-2025-32434, CVE-2026-24747)
_OLDEST = (2, 10)
_OBJECT = re.compile(r"GLOBAL ([\w.]+)|Unsupported (?:global|class|operand)[^\n]*?([\w]+(?:\.\w+)+)")


def read(path: Path) -> dict[str, Array]:
    """Return the tensors of a checkpoint by dotted name, from its `state_dict` if that holds all weights.

    The first pass reads shapes without memory for values. It refuses a file whose tensors are larger than its bytes.
    """
    torch = _torch()
    _check_members(path)
    for name, tensor in _tensors(path, torch, "meta"):
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise file_error(path, "dense tensors", f"{name}, a {tensor.layout} tensor", "Save dense tensors.")
        # a view or a storage that is larger than the file would be filled with other memory
        if max(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) > path.stat().st_size:
            shape = tuple(tensor.shape)
            raise file_error(path, "tensors that the file holds", f"{name} of shape {shape}", "Save the model again.")
    return {name: _to_array(path, torch, name, tensor) for name, tensor in _tensors(path, torch, "cpu")}


def _torch() -> Any:
    """Return PyTorch, which this layer of the package does not import otherwise."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise DependencyError(
            "torch", expected="PyTorch, to read its checkpoints", received="none", hint=f"Run: {install('torch')}."
        ) from error
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST:
        raise DependencyError(
            "torch",
            expected=f"version {'.'.join(map(str, _OLDEST))} or later, which reads checkpoints safely",
            received=torch.__version__,
            hint=f"Run: {install('torch')}.",
        )
    return torch


def _check_members(path: Path) -> None:
    """Raise an error for an archive that unpacks to more than its own size; the older format is no archive."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # as PyTorch distinguishes the two
                return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise file_error(path, "an intact checkpoint", str(error), "Copy or download the file again.") from error
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        received = f"{packed[0]}, which is compressed" if packed else "members larger than the file"
        raise file_error(path, "a checkpoint as torch.save writes it", received, _HINT)


def _tensors(path: Path, torch: Any, device: str) -> Iterator[tuple[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that either load or raise an error
            content = torch.load(path, map_location=device, weights_only=True)
        tensors = dict(_leaves(torch, _state_dict(torch, content)))
    except pickle.UnpicklingError as error:
        match = _OBJECT.search(str(error))
        name = next((group for group in match.groups() if group), "") if match else ""
        received = f"an object of {name}" if name else "other content"
        raise file_error(path, "a checkpoint of tensors and plain values only", received, _HINT) from error
    except Exception as error:  # a damaged file raises almost anything inside PyTorch, also AssertionError
        received = str(error).partition("\n")[0][:100] or type(error).__name__
        raise file_error(path, "an intact checkpoint of PyTorch", received, _HINT) from error
    if not tensors:
        received = f"a {type(content).__name__} without tensors by name"
        raise file_error(path, "a state_dict, or a checkpoint that holds one", received, _HINT)
    yield from tensors.items()


def _state_dict(torch: Any, content: Any) -> Any:
    """Return the mapping of the model within a checkpoint, or all of the checkpoint if it has weights elsewhere too."""
    if isinstance(content, Mapping):
        for key in _NESTED:
            if any(_leaves(torch, content.get(key))) and not _has_other_weights(torch, content, key):
                return _state_dict(torch, content[key])
    return content


def _has_other_weights(torch: Any, content: Mapping[Any, Any], nested: str) -> bool:
    """Return whether a checkpoint has weights outside one entry; scalars, integers and optimisers are none."""
    others = {key: value for key, value in content.items() if key != nested and not _OPTIMISER.fullmatch(str(key))}
    return any(tensor.ndim > 0 and tensor.is_floating_point() for _, tensor in _leaves(torch, others))


def _leaves(torch: Any, content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _leaves(torch, value, f"{prefix}{name}.")


def _to_array(path: Path, torch: Any, name: str, tensor: Any) -> Array:
    """Return a tensor as an array; bfloat16 and float8 become float32, and other types that NumPy lacks are refused."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    try:
        is_narrow = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
        array: Array = (tensor.float() if is_narrow else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
        raise file_error(
            path, "tensors of types that NumPy has", f"{name}, a {tensor.dtype} tensor", "Save it as float32."
        ) from error
    return array
