"""What a layer and a cell share: a spec, and the parameters that follow from it."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from convlstm.contract.calls import state_shapes
from convlstm.contract.spec import ConvLSTMSpec
from convlstm.contract.weights import initialise, layer_shapes
from convlstm.engine.torch import State
from convlstm.errors import SpecError
from convlstm.torch import inputs
from convlstm.torch.weights import load_canonical, native_name, register


class SpecModule(nn.Module):
    """A module whose parameters are the canonical arrays of a `ConvLSTMSpec`, under PyTorch's names.

    Args:
        spec: Every option.
        device: As in every PyTorch module.
        dtype: As in every PyTorch module.

    Attributes:
        spec: The options.
    """

    def __init__(self, spec: ConvLSTMSpec, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if dtype is not None and not dtype.is_floating_point:
            raise SpecError("dtype", expected="a floating type", received=dtype, mend="take float32, or leave it out.")
        self.spec = spec
        register(self, spec, device=device, dtype=dtype)
        self._names = {
            (layer.index, direction): {
                name: native_name(f"layers.{layer.index}.{direction}.{name}") for name in layer_shapes(layer)
            }
            for layer in spec.layers
            for direction in spec.directions
        }
        self.reset_parameters()

    @classmethod
    def from_spec(cls, spec: ConvLSTMSpec, *, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """Build the module from a spec, as read from a file.

        Args:
            spec: Every option.
            device: As in every PyTorch module.
            dtype: As in every PyTorch module.

        Returns:
            A freshly initialised module.

        Example:
            >>> from convlstm import ConvLSTMSpec
            >>> from convlstm.torch import ConvLSTM
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
            >>> ConvLSTM.from_spec(spec).spec == spec
            True
        """
        module = cls.__new__(cls)
        SpecModule.__init__(module, spec, device=device, dtype=dtype)
        return module

    def reset_parameters(self, seed: int | None = None) -> None:
        """Start afresh from the contract's initialisation.

        Args:
            seed: Any integer of at least 0; None draws one from PyTorch's global generator.
        """
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        load_canonical(self, initialise(self.spec, seed))

    def layer_weights(self, index: int = 0, direction: str | None = None) -> dict[str, Tensor]:
        """Return the arrays of one layer and direction by the names of the contract."""
        names = self._names[index, direction or self.spec.directions[0]]
        return {name: getattr(self, native) for name, native in names.items()}

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults, as `torch.nn.LSTM` prints them."""
        spec = self.spec
        plain = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, spatial_dims=spec.spatial_dims)
        usual = vars(plain) | {"recurrent_kernel_size": spec.kernel_size}
        usual |= {} if spec.bias else {"forget_bias": None}
        parts = [f"{spec.in_channels}, {_short(spec.hidden_channels)}, kernel_size={_short(spec.kernel_size)}"]
        for name in list(ConvLSTMSpec.__dataclass_fields__)[3:]:
            value = getattr(spec, name)
            if _short(value) != _short(usual[name]):
                parts.append(f"{name}={_short(value)!r}")
        return ", ".join(parts)

    def _states(self, given: Any, x: Tensor, batch: int, batched: bool) -> list[State]:
        """Return the initial states for frames x, checked against batch and grid, or zeros."""
        shapes = state_shapes(self.spec, batch, x.shape[-self.spec.spatial_dims :])
        if given is None:
            return [(x.new_zeros(shape), x.new_zeros(shape)) for shape in shapes]
        return inputs.read_states(given, shapes, x, batched)


def _short(value: Any) -> Any:
    if isinstance(value, tuple) and value and all(item == value[0] for item in value):
        return _short(value[0])
    return value
