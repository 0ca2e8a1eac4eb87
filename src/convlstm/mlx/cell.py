"""One step of the convolutional LSTM for MLX."""

from __future__ import annotations

from typing import Unpack

import mlx.core as mx

from convlstm.frontend.arguments import cell_spec, check_cell
from convlstm.mlx import inputs
from convlstm.mlx.dropout import sample_masks
from convlstm.mlx.module import SpecModule
from convlstm.mlx.stack import run_stack
from convlstm.spec import calls, parsing
from convlstm.spec.choices import LayerOptions
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import PerAxis


class ConvLSTMCell(SpecModule):
    r"""One convolutional LSTM layer, one step a call, for loops and streams (equations: `ConvLSTM`).

    Args:
        in_channels: Channels of a frame.
        hidden_channels: Channels of h and c.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is given.
        stride: Stride of the input convolution; h and c live on its output grid.
        padding: `same`, `valid`, or points per axis, of the input convolution.
        dilation: Dilation of the input convolution.
        groups: Groups of the input convolution, inside each gate.
        bias: Whether the gates have a bias.
        dtype: Type of the parameters.
        **options: Every further option of `ConvLSTMSpec` that makes sense in one step.

    Shapes:
        x:    (batch, *space, in_channels), or (*space, in_channels) without a batch
        h, c: (batch, *grid, hidden_channels)

    Raises:
        SpecError: for options out of range, or that need the whole sequence (two directions).

    Example:
        >>> cell = ConvLSTMCell(1, 8, kernel_size=3)
        >>> state = None
        >>> for frame in mx.zeros((5, 2, 16, 16, 1)):
        ...     h, c = state = cell(frame, state)
        >>> h.shape
        (2, 16, 16, 8)
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: PerAxis,
        *,
        stride: PerAxis = 1,
        padding: str | PerAxis = "same",
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: mx.Dtype = mx.float32,
        **options: Unpack[LayerOptions],
    ) -> None:
        spec = cell_spec(
            in_channels,
            hidden_channels,
            kernel_size,
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias, **options},
        )
        super().__init__(spec, dtype=dtype)

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that needs the whole sequence, or several layers."""
        check_cell(spec)

    def init_hidden(self, batch_size: int, image_size: int | tuple[int, ...]) -> tuple[mx.array, mx.array]:
        """Return zero states for frames of this size.

        Args:
            batch_size: Rows of the batch.
            image_size: Spatial size of the input frames; the states have the size of the output grid.

        Returns:
            h and c, each (batch, *grid, hidden_channels).

        Raises:
            SpecError: for a size with another number of axes.
            ShapeError: for a size that leaves an axis empty.
        """
        size = parsing.per_axis("image_size", image_size, self.spec.spatial_dims, 1)
        batch = parsing.integer("batch_size", batch_size, 0)
        (state,) = inputs.zero_states(calls.state_shapes(self.spec, batch, size, channels_last=True), self.dtype)
        return state

    def __call__(
        self,
        x: mx.array | None,
        state: tuple[mx.array, mx.array] | None = None,
        *,
        duration: mx.array | float | None = None,
        gap: mx.array | float | None = None,
        key: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Take one step.

        Args:
            x: (batch, *space, in_channels), or without the batch axis; None in a cell without input
                (`in_channels=0`), which needs a state.
            state: h and c of the step before; None means zeros.
            duration: Δ of this step: a number, (), (batch,) or (batch, 1).
            gap: Time since the last valid frame, of the same shapes; for `memory_decay`.
            key: Source of random numbers in training.

        Returns:
            h and c after the step.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid.
        """
        spec = self.spec
        inputs.check_key(key)
        if calls.check_input(spec, x, None if spec.in_channels else 1):
            frames, batched = inputs.read_frame(spec, x, self.dtype)
        else:
            frames, batched = inputs.frames_of_state(spec, state, 1, self.dtype)
        reader = inputs.CallReader(frames, frames.shape[1])
        gaps = reader.one_step("gap", spec.memory_decay, gap)
        _, ((h, c),) = run_stack(
            spec,
            self.layer_weights,
            frames,
            self._states(state, reader, batched, cell=True),
            steps=1,
            durations=reader.one_step("duration", spec.duration_strategy != "none", duration),
            gaps=None if gaps is None else {"forward": gaps},
            dropout_masks=sample_masks(spec, frames, tuple(frames.shape[2:-1]), 1, key) if self.training else None,
        )
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))
