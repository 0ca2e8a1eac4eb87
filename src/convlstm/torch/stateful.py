"""A layer that goes on where its last call ended: for streams, and for training on long sequences piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convlstm.errors import SpecError, StateError
from convlstm.torch.layer import ConvLSTM, States


def go_on(
    run: Callable[..., tuple[Any, States]], x: Tensor, state: States | None, **options: Any
) -> tuple[Any, States]:
    """Run a layer from a kept state, or anew.

    Args:
        run: The layer's forward.
        x: As in `ConvLSTM`.
        state: What the last call kept, or None.
        **options: As in `ConvLSTM.forward`.

    Returns:
        output and (h_n, c_n).

    Raises:
        StateError: if batch, grid or device differ from the call before.
    """
    try:
        return run(x, state, **options)
    except StateError as error:
        raise StateError(
            "x",
            expected="the batch and grid of the call before",
            received=f"others: that call's {error.argument} is {error.received}",
            hint="call reset_state() before an unrelated sequence.",
        ) from error


def detached(state: States) -> States:
    """Return a copy of a state that carries no gradient, and may enter a later graph.

    A copy, since the caller may change the returned state in place.
    """
    h, c = state
    with torch.inference_mode(False), torch.no_grad():
        return tuple(part.clone() for part in h), tuple(part.clone() for part in c)


class StatefulConvLSTM(nn.Module):
    """A `ConvLSTM` that starts each call from the detached final state of the call before.

    The state is no parameter and no buffer: nothing of it is saved, and `reset_state` forgets it. Gradients end at
    the border between two calls (truncated backpropagation through time).

    Args:
        layer: The layer, in the forward direction.

    Attributes:
        layer: The layer.
        state: The state after the last call, detached, or None.

    Raises:
        SpecError: for a layer that runs backwards, which no state can carry over.

    Example:
        >>> import torch
        >>> stream = StatefulConvLSTM(ConvLSTM(1, 8, kernel_size=3))
        >>> for part in torch.zeros(3, 2, 5, 1, 16, 16):
        ...     output, (h_n, c_n) = stream(part)
        >>> stream.reset_state()
        >>> stream.state is None
        True
    """

    def __init__(self, layer: ConvLSTM) -> None:
        super().__init__()
        if type(layer) is not ConvLSTM:
            raise SpecError(
                "layer", expected="a ConvLSTM", received=type(layer).__name__, hint="wrap the layer itself."
            )
        if layer.spec.direction != "forward":
            raise SpecError(
                "direction",
                expected="forward in a stateful layer",
                received=layer.spec.direction,
                hint="use the layer itself: a backward pass begins at the end of each sequence.",
            )
        self.layer = layer
        self.state: States | None = None
        self._batched = True

    def reset_state(self, rows: Any = None) -> None:
        """Forget the state.

        Args:
            rows: Bools (batch,), True for each row of the batch that begins a new sequence; None means all.

        Raises:
            StateError: if there is not one bool per row.
        """
        if rows is None or self.state is None:
            self.state = None
            return
        batch = self.state[0][0].shape[0] if self._batched else 1
        new = torch.as_tensor(rows)
        if new.dtype != torch.bool or tuple(new.shape) != (batch,):
            raise StateError(
                "rows", expected=f"{batch} bools, one per row", received=new.tolist(), hint="give one for each row."
            )
        # a state of NaN times 0 would stay: it is replaced
        h, c = (
            tuple(p.masked_fill(new.to(p.device).reshape(-1, *(1,) * (p.ndim - 1)), 0.0) for p in parts)
            for parts in self.state
        )
        self.state = h, c

    def forward(self, x: Tensor, **options: Any) -> tuple[Any, States]:
        """Run the layer from where the last call ended.

        Args:
            x: As in `ConvLSTM`.
            **options: As in `ConvLSTM.forward`, but `state`.

        Returns:
            output and (h_n, c_n), which still carry gradients; what is kept does not.

        Raises:
            StateError: if batch, grid or device differ from the call before.
        """
        if "state" in options:
            raise StateError(
                "state", expected="none in a stateful layer", received="one", hint="call reset_state(), or use layer."
            )
        output, state = go_on(self.layer, x, self.state, **options)
        self.state = detached(state)
        self._batched = x.ndim == self.layer.spec.spatial_dims + 3
        return output, state
