"""Canonical arrays to and from PyTorch parameters: the one file that knows both layouts.

PyTorch's names are those of `torch.nn.LSTM`: `weight_ih_l0`, `weight_hh_l0_reverse`, with the gates i, f, g, o
stacked along the first axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convlstm.errors import WeightsError
from convlstm.frontend import saving
from convlstm.frontend.layouts import array_name
from convlstm.frontend.loading import extra_of
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, canonical_shapes, check_weights, initialise
from convlstm.weights.checkpoint import save_model

_GATED = ("weight_ih", "weight_hh", "bias", "norm_scale")


class HasSpec(Protocol):
    """A module built from a spec."""

    @property
    def spec(self) -> Spec:
        """The options it was built from."""

    def named_parameters(self) -> Any:
        """Yield names and parameters."""

    def get_submodule(self, target: str) -> Any:
        """Return a module inside by its name."""


def native_name(key: str) -> str:
    """Return PyTorch's name of a canonical array: `weight_ih_l0_reverse` for `layers.0.reverse.weight_ih`."""
    stack, layer, rest = key.partition("layers.")
    if not layer:
        return key
    index, direction, name = rest.split(".", 2)
    suffix = "_reverse" if direction == "reverse" else ""
    return f"{stack}{name.replace('.', '_')}_l{index}{suffix}"


def native_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of PyTorch's parameter for a canonical array: gates stacked along the first axis."""
    return (shape[0] * shape[1], *shape[2:]) if array_name(key) in _GATED else shape


def to_canonical(module: HasSpec) -> dict[str, Array]:
    """Return a module's weights as canonical NumPy arrays (copies).

    Args:
        module: A layer, cell or forecaster of `convlstm.torch`.

    Returns:
        Arrays by canonical key; low precision is widened to float32.

    Raises:
        WeightsError: for another module; the hint names a layer inside it.

    Example:
        >>> from convlstm.torch import ConvLSTM
        >>> to_canonical(ConvLSTM(1, 8, kernel_size=3))["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    _check_module(module)
    return {
        key: _to_array(_current_value(module, native_name(key))).reshape(shape)
        for key, shape in canonical_shapes(module.spec).items()
    }


def load_canonical(module: HasSpec, arrays: Mapping[str, Array]) -> None:
    """Copy canonical arrays into a module's parameters, in place.

    Args:
        module: A layer, cell or forecaster of `convlstm.torch`.
        arrays: Arrays by canonical key; checked against the module's spec first.

    Raises:
        WeightsError: if any array is missing, unknown or misshapen, for parametrised weights, and for another module;
            nothing is copied then.

    Example:
        >>> from convlstm.torch import ConvLSTM
        >>> layer, twin = ConvLSTM(1, 8, kernel_size=3), ConvLSTM(1, 8, kernel_size=3)
        >>> load_canonical(twin, to_canonical(layer))
        >>> torch.equal(twin.weight_ih_l0, layer.weight_ih_l0)
        True
    """
    _check_module(module)
    check_weights(module.spec, arrays)
    parameters = dict(module.named_parameters())
    for name in map(native_name, arrays):
        if name not in parameters:
            raise WeightsError(
                "module",
                expected="plain parameters",
                received=f"a {name} that is computed before each forward pass",
                hint=f"Call `{_remover(module, name)}` first.",
            )
    with torch.no_grad():
        for key, array in arrays.items():
            parameter = parameters[native_name(key)]
            parameter.copy_(shard_like(parameter, torch.from_numpy(np.array(array)).reshape(parameter.shape)))


def _current_value(module: HasSpec, name: str) -> Tensor:
    """Return an array as a forward pass in evaluation uses it, also where a parametrisation or a hook computes it."""
    prefix, _, attribute = name.rpartition(".")
    owner = module.get_submodule(prefix)
    hook = _hook_of(owner, attribute)
    if isinstance(hook, SpectralNorm):
        value: Tensor = hook.compute_weight(owner, do_power_iteration=False)
    elif isinstance(hook, WeightNorm):
        value = hook.compute_weight(owner)
    elif isinstance(hook, BasePruningMethod):
        value = hook.apply_mask(owner)
    elif is_parametrized(owner, attribute):
        parametrisation = owner.parametrizations[attribute]
        was_training = parametrisation.training
        parametrisation.eval()  # in training, spectral norm changes its estimate whenever the array is read
        value = getattr(owner, attribute)
        parametrisation.train(was_training)
    else:
        value = getattr(owner, attribute)
    return value


def _hook_of(owner: Any, attribute: str) -> object:
    """Return the hook that computes an array before each forward pass: weight norm, spectral norm or pruning."""
    for hook in owner._forward_pre_hooks.values():
        is_norm = isinstance(hook, (SpectralNorm, WeightNorm)) and hook.name == attribute
        if is_norm or (isinstance(hook, BasePruningMethod) and hook._tensor_name == attribute):
            return hook
    return None


def _remover(module: HasSpec, name: str) -> str:
    """Return the call that makes a computed array a parameter again."""
    prefix, _, attribute = name.rpartition(".")
    hook = _hook_of(module.get_submodule(prefix), attribute)
    owner = f"module.{prefix}" if prefix else "module"
    arguments = f"({owner}, {attribute!r})"
    if isinstance(hook, SpectralNorm):
        return "torch.nn.utils.remove_spectral_norm" + arguments
    if isinstance(hook, WeightNorm):
        return "torch.nn.utils.remove_weight_norm" + arguments
    if isinstance(hook, BasePruningMethod):
        return "torch.nn.utils.prune.remove" + arguments
    return "torch.nn.utils.parametrize.remove_parametrizations" + arguments


def reset(module: HasSpec, seed: int | None) -> None:
    """Load the contract's initialisation into a module; None draws a seed from PyTorch's global generator."""
    seed = int(torch.randint(2**31, (), device="cpu")) if seed is None else seed
    load_canonical(module, initialise(module.spec, seed))


def save(path: str | Path, module: HasSpec, extra: dict[str, Any] | None = None) -> str:
    """Write a module's spec and weights to a file that every framework reads.

    Args:
        path: Where to, by custom `*.safetensors`.
        module: A layer, cell or forecaster of `convlstm.torch`.
        extra: JSON values to store with them; None takes those of the file that the module was loaded from.

    Returns:
        The digest of the weights.

    Raises:
        WeightsError: for swapped arguments, and for another module; the hint names a layer inside it.
        OutputError: if the file cannot be written; an existing file is unchanged.

    Example:
        >>> import tempfile
        >>> from convlstm.torch import ConvLSTM, load
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3), {"units": "mm/h"})
        >>> load(path)
        ConvLSTM(1, 8, kernel_size=3)
    """
    saving.check_path(path, module)
    arrays = to_canonical(module)
    return save_model(path, module.spec, arrays, extra_of(module, extra))


def register(
    module: nn.Module, spec: Spec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Register an empty parameter in a module for every canonical array of a stack."""
    for key, shape in canonical_shapes(spec).items():
        empty = torch.empty(native_shape(key, shape), device=device, dtype=dtype)
        module.register_parameter(native_name(key), nn.Parameter(empty))


def _check_module(module: object) -> None:
    saving.check_module(
        module, _parts(module), package="convlstm.torch", save_all="torch.save(module.state_dict(), path)"
    )


def _parts(module: object) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Module):
        for name, part in module.named_modules():
            yield saving.expression_of(name.split(".")), part


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as one array; a call for a sharded one waits for the other processes."""
    result: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return result


def shard_like(sharded: Tensor, tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, as a parameter is sharded; without shards the tensor itself."""
    if not hasattr(sharded, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow to load, and needed by FSDP only

    assert isinstance(sharded, DTensor)
    return distribute_tensor(tensor.to(sharded.device), sharded.device_mesh, sharded.placements)


def _to_array(parameter: Tensor) -> Array:
    tensor = whole(parameter.detach()).cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return np.array(tensor.numpy())
