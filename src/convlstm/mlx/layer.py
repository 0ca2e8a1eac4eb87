"""The convolutional LSTM layer for MLX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import mlx.core as mx

from convlstm.engine.mlx.recurrence import State
from convlstm.frontend import dropout
from convlstm.frontend.arguments import layer_spec
from convlstm.frontend.merge import merge_directions
from convlstm.mlx import inputs
from convlstm.mlx.dropout import read_masks, sample_masks, swap_time_and_batch
from convlstm.mlx.module import SpecModule
from convlstm.mlx.stack import concatenate, run_stack
from convlstm.spec import calls
from convlstm.spec.choices import LayerOptions
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.types import LayerSizes, Padding

States = tuple[tuple[mx.array, ...], tuple[mx.array, ...]]


class ConvLSTM(SpecModule):
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
    `convlstm.reference.recurrence`.

    Args:
        in_channels: Channels of the input frames.
        hidden_channels: Channels of h and c; a list gives one number per layer.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is
            given; an int, a tuple per spatial axis, or a list of these per layer.
        num_layers: Number of layers; None takes the length of a list of hidden channels, or 1.
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
        kernel_size: LayerSizes,
        num_layers: int | None = None,
        *,
        stride: LayerSizes = 1,
        padding: Padding = "same",
        dilation: LayerSizes = 1,
        groups: int | Sequence[int] = 1,
        bias: bool = True,
        bidirectional: bool = False,
        dtype: mx.Dtype = mx.float32,
        **options: Unpack[LayerOptions],
    ) -> None:
        spec = layer_spec(
            in_channels,
            hidden_channels,
            kernel_size,
            num_layers,
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias, **options},
            bidirectional=bidirectional,
        )
        super().__init__(spec, dtype=dtype)

    def __call__(
        self,
        x: mx.array | None,
        state: States | State | None = None,
        *,
        steps: int | None = None,
        lengths: mx.array | Sequence[int] | None = None,
        mask: mx.array | None = None,
        durations: mx.array | float | None = None,
        gaps: mx.array | tuple[mx.array, ...] | None = None,
        key: mx.array | None = None,
        dropout_masks: DropoutMasks | None = None,
        all_layers: bool = False,
    ) -> tuple[Any, States]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, *space, in_channels), or without the batch axis. None in a layer without input
                (`in_channels=0`), which needs `steps` and `state`.
            state: (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
            steps: Number of steps of a layer without input.
            lengths: Valid steps of each row, 0 to time; the rest is masked.
            mask: True where a step is valid (batch, time).
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            key: Source of random numbers in training, from `mx.random.key`; None means MLX's global one.
            dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several
                calls, or one dropout over a sequence in parts.
            all_layers: Whether the outputs of every layer are returned, before dropout, as a tuple from the first to
                the last.

        Returns:
            output and (h_n, c_n); with merge `separate` each output is a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid.
        """
        spec = self.spec
        inputs.check_key(key)
        if calls.check_input(spec, x, steps):
            inputs.check_array("x", x, self.dtype)
            frames, batched = inputs.time_first(spec, x)
        else:
            frames, batched = inputs.frames_of_state(spec, state, steps, self.dtype)
        reader = inputs.CallReader(frames, frames.shape[1], len(frames))
        valid = reader.valid_steps(lengths, mask)
        masks = self._masks(frames, key, dropout_masks)
        outputs, final = run_stack(
            spec,
            self.layer_weights,
            frames,
            self._states(state, reader, batched),
            steps=len(frames),
            mask=valid,
            durations=reader.durations(spec, durations, valid),
            gaps=reader.gaps(spec, gaps, valid),
            dropout_masks=masks,
        )
        pairs = final if batched else [(h.squeeze(0), c.squeeze(0)) for h, c in final]
        merged = []
        for parts in outputs:
            layouts = [part.swapaxes(0, 1) if batched else part.squeeze(1) for part in parts]
            merged.append(merge_directions(layouts, spec.merge, concatenate))
        return (tuple(merged) if all_layers else merged[-1]), (tuple(h for h, _ in pairs), tuple(c for _, c in pairs))

    def sample_masks(
        self,
        x: mx.array | None,
        steps: int | None = None,
        *,
        state: States | State | None = None,
        key: mx.array | None = None,
    ) -> DropoutMasks:
        """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

        Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others.

        Args:
            x: Frames as of a call, of which batch, size and type count. None in a layer without input, which needs
                `steps` and `state`.
            steps: Number of steps of the whole sequence; None takes that of x.
            state: Initial (h_0, c_0) as of a call, of a layer without input.
            key: Source of random numbers, from `mx.random.key`; None means MLX's global one.

        Returns:
            The masks, per-step ones (batch, time, *grid, channels); without any mask for a layer without a random part.

        Example:
            >>> layer, x = ConvLSTM(1, 8, kernel_size=3, recurrent_dropout=0.2, zoneout_h=0.1), mx.ones((2, 5, 8, 8, 1))
            >>> masks = layer.sample_masks(x)
            >>> whole, _ = layer(x, dropout_masks=masks)
            >>> first, state = layer(x[:, :3], dropout_masks=masks[:3])
            >>> second, _ = layer(x[:, 3:], state, dropout_masks=masks[3:])
            >>> bool(mx.allclose(mx.concatenate([first, second], axis=1), whole, atol=1e-6))
            True
        """
        inputs.check_key(key)
        count = dropout.count_steps(self.spec, x, state, steps)
        if x is None:
            frames, _ = inputs.frames_of_state(self.spec, state, count, self.dtype)
        else:
            inputs.check_array("x", x, self.dtype)
            frames, _ = inputs.time_first(self.spec, x)
        count = len(frames) if count is None else count
        sampled = sample_masks(self.spec, frames, tuple(frames.shape[2:-1]), count, key)
        return dropout.batch_first(self.spec, sampled, swap_time_and_batch)

    def _masks(self, frames: mx.array, key: mx.array | None, masks: DropoutMasks | None) -> DropoutMasks | None:
        """Return the masks of a call, time first."""
        dropout.check_use(masks, self.training, key is not None, "key", "Call `train()` before the call.")
        if masks is not None:
            return read_masks(self.spec, masks, frames)
        size = tuple(frames.shape[2:-1])
        return sample_masks(self.spec, frames, size, len(frames), key) if self.training else None
