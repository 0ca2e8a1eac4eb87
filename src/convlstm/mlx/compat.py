"""The call forms of convlstm-mlx (tomo-oga), on the layer and cell of this package.

They differ from the native classes in names, in the peepholes of their equations, and in what a call returns.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from convlstm.frontend.arguments import check_has_input
from convlstm.mlx import cell, layer
from convlstm.mlx.layer import States
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import PerAxis


class ConvLSTM(layer.ConvLSTM):
    r"""One convolutional LSTM layer with peepholes that returns its outputs alone (equations: the native layer).

    Args:
        in_channels: Channels of the input frames.
        out_channels: Channels of h and c.
        kernel_size: Kernel of both convolutions; even sizes work too.
        bias: Whether the gates have a bias.
        peephole: `channel`, `pixel` or `none`.
        **options: Every further option of the native layer: stride, padding, bidirectional and so on.

    Shapes:
        x:      (batch, time, height, width, in_channels), or (time, height, width, in_channels) without a batch
        output: (batch, time, height, width, out_channels), or without the batch axis

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> ConvLSTM(3, 8)(mx.zeros((2, 4, 16, 16, 3))).shape
        (2, 4, 16, 16, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 5,
        bias: bool = True,
        *,
        peephole: str = "channel",
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, peephole=peephole, **options)

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that this form cannot compute, as one without input."""
        super().check_spec(spec)
        check_has_input(spec, "this form of the layer")

    def __call__(  # type: ignore[override]  # that package returns one array
        self, x: mx.array, state: States | None = None, *, return_state: bool = False, **given: Any
    ) -> Any:
        """Run the layer over a sequence.

        Args:
            x: (batch, time, height, width, in_channels), or without the batch axis.
            state: (h_0, c_0); None means zeros.
            return_state: Whether the final states are returned too.
            **given: Every further argument of the native layer: lengths, mask, durations and so on.

        Returns:
            The outputs, or the outputs and (h_n, c_n).

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid.
        """
        output, final = super().__call__(x, state, **given)
        return (output, final) if return_state else output


class ConvLSTMCell(cell.ConvLSTMCell):
    r"""One step of that layer, also named `_conv_lstm_cell`.

    Args:
        in_channels: Channels of a frame.
        out_channels: Channels of h and c.
        kernel_size: Kernel of both convolutions; even sizes work too.
        stride: Stride of the input convolution; h and c live on its output grid.
        padding: `same`, `valid`, or points per axis, of the input convolution.
        dilation: Dilation of the input convolution.
        bias: Whether the gates have a bias.
        peephole: `channel`, `pixel` or `none`.
        **options: Every further option of the native cell.

    Shapes:
        x:    (batch, height, width, in_channels), or (height, width, in_channels)
        h, c: (batch, height, width, out_channels), or (height, width, out_channels)

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> cell = _conv_lstm_cell(3, 8)
        >>> h, c = cell(mx.zeros((2, 16, 16, 3)))
        >>> h, c = cell(mx.zeros((2, 16, 16, 3)), (h, c))
        >>> h.shape
        (2, 16, 16, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis = 5,
        stride: PerAxis = 1,
        padding: str | PerAxis = "same",
        dilation: PerAxis = 1,
        bias: bool = True,
        *,
        peephole: str = "channel",
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            peephole=peephole,
            **options,
        )

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that this form cannot compute, as one without input."""
        super().check_spec(spec)
        check_has_input(spec, "this form of the cell")


_conv_lstm_cell = ConvLSTMCell
