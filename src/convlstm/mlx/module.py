"""What a layer and a cell share: a spec, and the parameters that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from convlstm.engine.mlx.recurrence import State
from convlstm.errors import SpecError
from convlstm.frontend.arguments import check_spec_type
from convlstm.frontend.loading import HoldsExtra
from convlstm.mlx import inputs
from convlstm.mlx.weights import empty_layers, reset
from convlstm.spec.calls import state_shapes
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.printing import options_in_words


class SpecModule(HoldsExtra, nn.Module):
    """A module whose parameters are the canonical arrays of a `ConvLSTMSpec`, under their canonical names."""

    def __init__(self, spec: ConvLSTMSpec, *, dtype: mx.Dtype = mx.float32) -> None:
        super().__init__()
        check_spec_type(spec, ConvLSTMSpec)
        self.check_spec(spec)
        if not isinstance(dtype, mx.Dtype) or not mx.issubdtype(dtype, mx.floating):
            raise SpecError("dtype", expected="a floating type", received=dtype, hint="Pass `mx.float32`.")
        self.spec = spec
        self.layers: list[Any] = empty_layers(spec, dtype)
        self.reset_parameters()

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that this kind of module cannot compute."""

    @classmethod
    def from_spec(cls, spec: ConvLSTMSpec, *, dtype: mx.Dtype = mx.float32) -> Self:
        """Build the module from a spec, as read from a file.

        Args:
            spec: Every option.
            dtype: Type of the parameters.

        Returns:
            A freshly initialised module.

        Example:
            >>> from convlstm.mlx import ConvLSTM
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
            >>> ConvLSTM.from_spec(spec).spec == spec
            True
        """
        module = cls.__new__(cls)
        SpecModule.__init__(module, spec, dtype=dtype)
        return module

    @property
    def dtype(self) -> mx.Dtype:
        """The type convolutions run in."""
        return self.layer_weights()["weight_hh"].dtype

    def reset_parameters(self, seed: int | None = None) -> None:
        """Initialise the parameters again, as the contract defines it.

        Args:
            seed: Any integer of at least 0; None draws one from MLX's global generator.
        """
        reset(self, seed)

    def layer_weights(self, index: int = 0, direction: str | None = None) -> dict[str, mx.array]:
        """Return the arrays of one layer and direction by the names of the contract."""
        return dict(tree_flatten(self.layers[index][direction or self.spec.directions[0]]))

    def __repr__(self) -> str:
        """Return the options that differ from their defaults; MLX's own form would list the groups of arrays."""
        return f"{type(self).__name__}({options_in_words(self.spec)})"

    def _states(
        self, given: Any, reader: inputs.CallReader, batched: bool, *, cell: bool = False
    ) -> Sequence[State | None]:
        """Return the initial states for the reader's frames, checked against batch and grid; None means zeros.

        The state of a `cell` is one pair of arrays (h, c).
        """
        shapes = state_shapes(self.spec, reader.batch, reader.like.shape[2:-1], channels_last=True)
        return [None] * len(shapes) if given is None else reader.states(given, shapes, batched, cell=cell)
