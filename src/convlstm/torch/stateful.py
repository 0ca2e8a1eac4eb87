"""A layer that continues where its last call ended: for streams, and for training on long sequences in pieces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from convlstm.engine.torch.modes import is_jit_traced
from convlstm.errors import SpecError, StateError
from convlstm.frontend.stateful import check_stateful, continue_sequence
from convlstm.spec.options import ConvLSTMSpec
from convlstm.torch.attributes import LayerAttributes
from convlstm.torch.layer import ConvLSTM, States


def detached(state: States) -> States:
    """Return a copy of a state without gradient; a copy, since the caller may change the returned state in place."""
    h, c = state
    with torch.inference_mode(False), torch.no_grad():
        return tuple(part.clone() for part in h), tuple(part.clone() for part in c)


class StatefulConvLSTM(nn.Module, LayerAttributes):
    """A `ConvLSTM` that starts each call from the detached final state of the call before.

    The state is neither a parameter nor a buffer: it is not saved, and `reset_state` forgets it. Gradients end at
    the border between two calls (truncated backpropagation through time).

    Args:
        layer: The layer, in the forward direction.

    Attributes:
        layer: The layer.
        last_state: (h_n, c_n) of the last call, detached, or None.
        in_channels, hidden_channels, kernel_size, num_layers, bias, bidirectional: As in `ConvLSTM`.

    Raises:
        SpecError: for a layer that runs backwards, which no state can carry over.

    Example:
        >>> import torch
        >>> stream = StatefulConvLSTM(ConvLSTM(1, 8, kernel_size=3))
        >>> for part in torch.zeros(3, 2, 5, 1, 16, 16):
        ...     output, (h_n, c_n) = stream(part)
        >>> stream.reset_state()
        >>> stream.last_state is None
        True
    """

    def __init__(self, layer: ConvLSTM) -> None:
        super().__init__()
        if type(layer) is not ConvLSTM:
            raise SpecError(
                "layer", expected="a ConvLSTM", received=type(layer).__name__, hint="Pass a `convlstm.torch.ConvLSTM`."
            )
        check_stateful(layer.spec)
        self.layer = layer
        self.last_state: States | None = None
        self._batched = True

    @property
    def _options(self) -> ConvLSTMSpec:
        return self.layer.spec

    def reset_state(self, rows: Any = None) -> None:
        """Forget the state.

        Args:
            rows: Bools (batch,), True for each row of the batch that begins a new sequence; None means all.

        Raises:
            StateError: if there is not one bool per row.
        """
        if rows is None or self.last_state is None:
            self.last_state = None
            return
        batch = self.last_state[0][0].shape[0] if self._batched else 1
        new = torch.as_tensor(rows)
        if new.dtype != torch.bool or tuple(new.shape) != (batch,):
            raise StateError(
                "rows",
                expected=f"{batch} bools, one per row",
                received=new.tolist(),
                hint="Pass one bool for each row.",
            )
        # a state of NaN times 0 would stay: it is replaced
        h, c = (
            tuple(p.masked_fill(new.to(p.device).reshape(-1, *(1,) * (p.ndim - 1)), 0.0) for p in parts)
            for parts in self.last_state
        )
        self.last_state = h, c

    def forward(self, x: Tensor | PackedSequence, **options: Any) -> tuple[Any, States]:
        """Run the layer from where the last call ended.

        Args:
            x: As in `ConvLSTM`.
            **options: As in `ConvLSTM.forward`, except `state` and `hx`.

        Returns:
            output and (h_n, c_n), which carry gradients; the stored state does not.

        Raises:
            StateError: if batch, grid or device differ from the call before.
        """
        if torch.compiler.is_exporting() or is_jit_traced():
            raise SpecError(
                "StatefulConvLSTM",
                expected="a call outside `torch.export` and `torch.jit.trace`, which would drop its state",
                received="a call that is exported or traced",
                hint="Export the attribute `layer`, and pass its state from call to call.",
            )
        output, state = continue_sequence(self.layer, x, self.last_state, options)
        self.last_state = detached(state)
        self._batched = isinstance(x, PackedSequence) or x.ndim == self.layer.spec.spatial_dims + 3
        return output, state
