"""One step of the convolutional LSTM for PyTorch."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from convlstm.frontend.arguments import cell_spec, check_cell
from convlstm.spec import calls, parsing
from convlstm.spec.calls import state_shapes
from convlstm.spec.choices import LayerOptions
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import PerAxis
from convlstm.torch import inputs
from convlstm.torch.attributes import CellAttributes
from convlstm.torch.dropout import check_generator, sample_masks
from convlstm.torch.module import SpecModule
from convlstm.torch.stack import StepInputs, run_stack


class ConvLSTMCell(SpecModule, CellAttributes):
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
        device: As in every PyTorch module.
        dtype: As in every PyTorch module.
        **options: Every further option of `ConvLSTMSpec` that makes sense in one step.

    Shapes:
        x:    (batch, in_channels, *space), or (in_channels, *space) without a batch
        h, c: (batch, hidden_channels, *grid)

    Attributes:
        spec: The options as a `ConvLSTMSpec`.
        in_channels, hidden_channels, kernel_size, bias: The arguments; read-only.

    Raises:
        SpecError: for options out of range, or that need the whole sequence (two directions).

    Example:
        >>> cell = ConvLSTMCell(1, 8, kernel_size=3)
        >>> state = None
        >>> for frame in torch.zeros(5, 2, 1, 16, 16):
        ...     h, c = state = cell(frame, state)
        >>> tuple(h.shape)
        (2, 8, 16, 16)
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        spec = cell_spec(
            in_channels,
            hidden_channels,
            kernel_size,
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias, **options},
        )
        super().__init__(spec, device=device, dtype=dtype)

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that needs the whole sequence, or several layers."""
        check_cell(spec)

    def init_hidden(self, batch_size: int, image_size: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return zero states for frames of this size.

        Args:
            batch_size: Rows of the batch.
            image_size: Spatial size of the input frames; the states have the size of the output grid.

        Returns:
            h and c, each (batch, hidden_channels, *grid).

        Raises:
            SpecError: for a size with another number of axes.
            ShapeError: for a size that leaves an axis empty.
        """
        size = parsing.per_axis("image_size", image_size, self.spec.spatial_dims, 1)
        (shape,) = state_shapes(self.spec, parsing.integer("batch_size", batch_size, 0), size)
        weight = self.layer_weights()["weight_hh"]
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def forward(
        self,
        x: Tensor | None,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        hx: tuple[Tensor, Tensor] | None = None,
        duration: Tensor | float | None = None,
        gap: Tensor | float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            x: (batch, in_channels, *space), or without the batch axis; None in a cell without input
                (`in_channels=0`), which needs a state.
            state: h and c of the step before; None means zeros.
            hx: Another name of `state`, as in `torch.nn.LSTMCell`.
            duration: Δ of this step: a number, (), (batch,) or (batch, 1).
            gap: Time since the last valid frame, of the same shapes; for `memory_decay`.
            generator: Source of random numbers in training.

        Returns:
            h and c after the step.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            DtypeError: if x has another type than the weights, or is sparse.
            StateError: if the state does not fit the batch or the grid.
        """
        spec, state = self.spec, inputs.one_state("state", state, hx)
        weight = self.layer_weights()["weight_hh"]
        if calls.check_input(spec, x, None if spec.in_channels else 1):
            frames, batched = inputs.read_frame(spec, x, weight)
        else:
            frames, batched = inputs.frames_of_state(spec, state, 1, weight)
        check_generator(generator, frames)
        reader = inputs.CallReader(frames, frames.shape[1])
        durations = reader.one_step("duration", spec.duration_strategy != "none", duration)
        gaps = reader.one_step("gap", spec.memory_decay, gap)
        dropout_masks = sample_masks(spec, frames, tuple(frames.shape[3:]), 1, generator) if self.training else None
        _, ((h, c),) = run_stack(
            spec,
            self.layer_weights,
            frames,
            self._states(state, reader, batched, cell=True),
            StepInputs(None, durations, None if gaps is None else {"forward": gaps}, dropout_masks),
            steps=1,
            rows=self.rows,
        )
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))
