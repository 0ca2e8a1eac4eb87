"""The convolutional LSTM layer for MLX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from convlstm.contract import arguments
from convlstm.contract.calls import state_shapes
from convlstm.contract.spec import ConvLSTMSpec
from convlstm.contract.vocabulary import LayerOptions
from convlstm.engine.mlx import State
from convlstm.errors import SpecError
from convlstm.mlx import inputs
from convlstm.mlx.stack import Draws, draw, merged, run_stack
from convlstm.mlx.weights import empty_layers, reset

States = tuple[tuple[mx.array, ...], tuple[mx.array, ...]]


class ConvLSTM(nn.Module):
    r"""A stack of convolutional LSTM layers over a sequence of fields, channels last.

    For each step t of each layer, with ∗ convolution and ∘ element-wise product:

        i   = σ(W_xi ∗ x_t + W_hi ∗ h_{t-1} + p_i ∘ c_{t-1} + b_i)
        f   = σ(W_xf ∗ x_t + W_hf ∗ h_{t-1} + p_f ∘ c_{t-1} + b_f)
        g   = tanh(W_xg ∗ x_t + W_hg ∗ h_{t-1} + b_g)
        c_t = f ∘ c_{t-1} + i ∘ g · δ(Δ_t)
        o   = σ(W_xo ∗ x_t + W_ho ∗ h_{t-1} + p_o ∘ c_t + b_o)
        h_t = o ∘ tanh(c_t)

    Peepholes p are off by default, and δ is 1 unless a `duration_strategy` is chosen. There is one bias; the
    forget gate's starts at 1. Source: Shi et al. (2015), Eq. 3, arXiv:1506.04214. Definition:
    `convlstm.contract.reference`.

    Args:
        in_channels: Channels of the input frames.
        hidden_channels: Channels of h and c; a list gives one number per layer.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is
            given; an int, a tuple per spatial axis, or a list of these per layer.
        num_layers: Number of layers; None takes the length of the lists, or 1.
        stride: Stride of the input convolution; h and c live on its output grid.
        padding: `same`, `valid`, or points per axis, of the input convolution.
        dilation: Dilation of the input convolution.
        groups: Groups of the input convolution, inside each gate.
        bias: Whether the gates have a bias.
        bidirectional: Whether each layer also runs backwards in time.
        dtype: Type of the parameters; float64 runs on CPU only, in exact and slow forms.
        **options: Every further option of `ConvLSTMSpec`: peephole, boundary, norm, dropout, durations and so on.

    Shapes:
        x:       (batch, time, *space, in_channels), or (time, *space, in_channels) without a batch
        output:  (batch, time, *grid, D · hidden_channels) with D = 2 if bidirectional (merge concat), else 1
        h_n, c_n: tuples indexed layer · D + direction, forward first, each (batch, *grid, hidden_channels)

    Attributes:
        spec: The options as a `ConvLSTMSpec`.
        layers: Per layer, with parts `forward` and `reverse`, of which each has the arrays
            weight_ih (4 · hidden_channels, *kernel, in_channels / groups), gates i, f, g, o;
            weight_hh (4 · hidden_channels, *kernel, hidden_channels); bias (4 · hidden_channels);
            peephole (3, hidden_channels), gates i, f, o; and so on, by the names of the contract.

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> layer = ConvLSTM(1, 8, kernel_size=3)
        >>> output, (h_n, c_n) = layer(mx.zeros((2, 5, 16, 16, 1)))
        >>> output.shape, h_n[0].shape
        ((2, 5, 16, 16, 8), (2, 16, 16, 8))
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Any = 5,
        num_layers: int | None = None,
        *,
        stride: Any = 1,
        padding: Any = "same",
        dilation: Any = 1,
        groups: int | Sequence[int] = 1,
        bias: bool = True,
        bidirectional: bool = False,
        dtype: mx.Dtype = mx.float32,
        **options: Unpack[LayerOptions],
    ) -> None:
        if arguments.flag("bidirectional", bidirectional):
            if options.get("direction", "bidirectional") != "bidirectional":
                raise SpecError(
                    "direction",
                    expected="nothing beside bidirectional=True",
                    received=repr(options["direction"]),
                    mend="give one of them.",
                )
            options["direction"] = "bidirectional"
        spec = ConvLSTMSpec(
            in_channels=arguments.integer("in_channels", in_channels, 1),
            hidden_channels=hidden_channels,
            kernel_size=kernel_size,
            num_layers=num_layers,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            **options,
        )
        self._build(spec, dtype)

    @classmethod
    def from_spec(cls, spec: ConvLSTMSpec, *, dtype: mx.Dtype = mx.float32) -> ConvLSTM:
        """Build the layer from a spec, as read from a file.

        Args:
            spec: Every option of the stack.
            dtype: Type of the parameters.

        Returns:
            A freshly initialised layer.

        Example:
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
            >>> ConvLSTM.from_spec(spec).spec == spec
            True
        """
        layer = cls.__new__(cls)
        layer._build(spec, dtype)
        return layer

    def _build(self, spec: ConvLSTMSpec, dtype: mx.Dtype) -> None:
        nn.Module.__init__(self)
        if not isinstance(dtype, mx.Dtype) or not mx.issubdtype(dtype, mx.floating):
            raise SpecError("dtype", expected="a floating type", received=dtype, mend="take mx.float32.")
        self.spec = spec
        self.layers: list[Any] = empty_layers(spec, dtype)
        self.reset_parameters()

    def reset_parameters(self, seed: int | None = None) -> None:
        """Start afresh from the contract's initialisation.

        Args:
            seed: Any integer of at least 0; None draws one from MLX's global generator.
        """
        reset(self, seed)

    def __repr__(self) -> str:
        spec = self.spec
        kind = type(self).__name__
        return f"{kind}({spec.in_channels}, {_short(spec.hidden_channels)}, kernel_size={_short(spec.kernel_size)})"

    def __call__(
        self,
        x: mx.array,
        state: States | State | None = None,
        *,
        lengths: mx.array | Sequence[int] | None = None,
        mask: mx.array | None = None,
        durations: mx.array | float | None = None,
        gaps: mx.array | tuple[mx.array, ...] | None = None,
        key: mx.array | None = None,
        draws: Draws | None = None,
    ) -> tuple[Any, States]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, *space, in_channels), or without the batch axis.
            state: (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
            lengths: Valid steps of each row, 0 to time; the rest is masked.
            mask: True where a step is valid (batch, time).
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            key: Source of the random draws in training, from `mx.random.key`; None means MLX's global one.
            draws: The random draws themselves, in place of new ones, as `convlstm.mlx.stack.draw` makes them: the
                same dropout over several calls.

        Returns:
            output and (h_n, c_n); with merge `apart` output is a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid.
        """
        spec = self.spec
        inputs.check_array("x", x, self.dtype)
        frames, batched = inputs.time_first(spec, x)
        steps, batch, *size, _ = frames.shape
        shapes = state_shapes(spec, batch, size, channels_last=True)
        valid = inputs.valid_steps(lengths, mask, frames)
        if self.training and draws is None:
            draws = draw(spec, frames, tuple(size), steps, key)
        outputs, final = run_stack(
            spec,
            self.layer_weights,
            frames,
            inputs.zero_states(shapes, x.dtype) if state is None else inputs.read_states(state, shapes, batched),
            steps=steps,
            mask=valid,
            durations=inputs.read_durations(spec, durations, valid, frames),
            gaps=inputs.read_gaps(spec, gaps, valid, frames),
            draws=draws,
        )
        pairs = final if batched else [(h.squeeze(0), c.squeeze(0)) for h, c in final]
        parts = [part.swapaxes(0, 1) if batched else part.squeeze(1) for part in outputs[-1]]
        output = tuple(parts) if spec.merge == "apart" and len(parts) > 1 else merged(parts, spec.merge)
        return output, (tuple(h for h, _ in pairs), tuple(c for _, c in pairs))

    @property
    def dtype(self) -> mx.Dtype:
        """The type convolutions run in."""
        dtype: mx.Dtype = self.layers[0][self.spec.directions[0]].weight_hh.dtype
        return dtype

    def layer_weights(self, index: int, direction: str) -> dict[str, mx.array]:
        """Return the arrays of one layer and direction by the names of the contract."""
        return dict(tree_flatten(self.layers[index][direction]))


def _short(value: Any) -> Any:
    if isinstance(value, tuple) and value and all(item == value[0] for item in value):
        return _short(value[0])
    return value
