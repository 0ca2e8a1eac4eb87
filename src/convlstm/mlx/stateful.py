"""A layer that continues where its last call ended: for streams, and for training on long sequences in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map

from convlstm.errors import StateError
from convlstm.frontend.stateful import check_stateful, continue_sequence
from convlstm.mlx.layer import ConvLSTM, States
from convlstm.spec import parsing


class StatefulConvLSTM(nn.Module):
    """A `ConvLSTM` that starts each call from the final state of the call before, without its gradient.

    The state is not a parameter: it is not saved, and `reset_state` forgets it. Gradients end at the border
    between two calls (truncated backpropagation through time).

    Args:
        layer: The layer, in the forward direction.

    Attributes:
        layer: The layer.
        last_state: (h_n, c_n) of the last call, or None; `mlx.nn.Module` itself defines `state`.

    Raises:
        SpecError: for a layer that runs backwards, which no state can carry over.

    Example:
        >>> stream = StatefulConvLSTM(ConvLSTM(1, 8, kernel_size=3))
        >>> for part in mx.zeros((3, 2, 5, 16, 16, 1)):
        ...     output, (h_n, c_n) = stream(part)
        >>> stream.reset_state()
        >>> stream.last_state is None
        True
    """

    def __init__(self, layer: ConvLSTM) -> None:
        super().__init__()
        check_stateful(layer.spec)
        self.layer = layer
        self.last_state: States | None = None

    def reset_state(self, rows: Iterable[bool] | None = None) -> None:
        """Forget the state.

        Args:
            rows: Bools (batch,), True for each row of the batch that begins a new sequence; None means all.

        Raises:
            StateError: if there is not one bool per row.
        """
        if rows is None or self.last_state is None:
            self.last_state = None
            return
        keep = [not parsing.flag("rows", row) for row in rows]
        batch = self.last_state[0][0].shape[0]
        if len(keep) != batch:
            raise StateError(
                "rows", expected=f"{batch} bools, one per row", received=len(keep), hint="Pass one bool for each row."
            )
        kept = mx.array(keep)
        self.last_state = tree_map(
            lambda a: mx.where(kept.reshape(-1, *(1,) * (a.ndim - 1)), a, mx.zeros_like(a)), self.last_state
        )

    def __call__(self, x: mx.array, **options: Any) -> tuple[Any, States]:
        """Run the layer from where the last call ended.

        Args:
            x: As in `ConvLSTM`.
            **options: As in a call of `ConvLSTM`, but `state`.

        Returns:
            output and (h_n, c_n), which carry gradients; the stored state does not.

        Raises:
            StateError: if batch or grid differ from the call before.
        """
        output, state = continue_sequence(self.layer, x, self.last_state, options)
        self.last_state = tree_map(mx.stop_gradient, state)
        return output, state
