"""The convolutional LSTM layer for PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from convlstm.engine.torch import modes
from convlstm.engine.torch.recurrence import State
from convlstm.errors import ShapeError, SpecError
from convlstm.frontend import dropout
from convlstm.frontend.arguments import layer_spec
from convlstm.frontend.merge import merge_directions
from convlstm.spec import calls, parsing
from convlstm.spec.choices import LayerOptions
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.types import LayerSizes, Padding
from convlstm.torch import inputs
from convlstm.torch.attributes import LayerAttributes
from convlstm.torch.dropout import check_generator, read_masks, sample_masks, swap_time_and_batch
from convlstm.torch.module import SpecModule
from convlstm.torch.packing import pack, unpack
from convlstm.torch.stack import StepInputs, channel_concatenation, read_checkpoint, run_stack

States = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class ConvLSTM(SpecModule, LayerAttributes):
    r"""A stack of convolutional LSTM layers over a sequence of fields, called like `torch.nn.LSTM`.

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
        batch_first: Whether batch comes before time in input and output.
        bidirectional: Whether each layer also runs backwards in time.
        checkpoint: Whether training keeps only √T of the steps' activations and computes the rest again in the
            backward pass, for long sequences; a number is the steps per segment.
        device: As in every PyTorch module.
        dtype: As in every PyTorch module.
        **options: Every further option of `ConvLSTMSpec`: peephole, boundary, norm, dropout, durations and so on.

    Shapes:
        x:       (batch, time, in_channels, *space), or (time, in_channels, *space) without a batch, or a
            `PackedSequence` with data (sum of lengths, in_channels, *space)
        output:  (batch, time, D · hidden_channels, *grid) with D = 2 if bidirectional (merge concat), else 1
        h_n, c_n: tuples indexed layer · D + direction, forward first, each (batch, hidden_channels, *grid)

    Attributes:
        spec: The options as a `ConvLSTMSpec`.
        in_channels, hidden_channels, kernel_size, num_layers, bias, bidirectional: The arguments; read-only. Hidden
            channels and kernel size are lists with one item per layer if the layers differ.
        weight_ih_l{k}: (4 · hidden_channels, in_channels / groups, *kernel), gates i, f, g, o.
        weight_hh_l{k}: (4 · hidden_channels, hidden_channels, *kernel), gates i, f, g, o.
        bias_l{k}: (4 · hidden_channels), gates i, f, g, o.
        peephole_l{k}: (3, hidden_channels), gates i, f, o. Backward layers end in `_reverse`.

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> layer = ConvLSTM(1, 8, kernel_size=3)
        >>> output, (h_n, c_n) = layer(torch.zeros(2, 5, 1, 16, 16))
        >>> tuple(output.shape), tuple(h_n[0].shape)
        ((2, 5, 8, 16, 16), (2, 8, 16, 16))
    """

    batch_first: bool = True
    checkpoint: bool | int = False

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
        batch_first: bool = True,
        bidirectional: bool = False,
        checkpoint: bool | int = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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
        super().__init__(spec, device=device, dtype=dtype)
        self.batch_first = parsing.flag("batch_first", batch_first)
        self.checkpoint = read_checkpoint(checkpoint)

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults, as `torch.nn.LSTM` prints them."""
        options = {"batch_first": (self.batch_first, True), "checkpoint": (self.checkpoint, False)}
        return ", ".join([super().extra_repr(), *(f"{n}={v!r}" for n, (v, default) in options.items() if v != default)])

    def forward(
        self,
        x: Tensor | PackedSequence | None,
        state: States | tuple[Tensor, Tensor] | None = None,
        *,
        hx: States | tuple[Tensor, Tensor] | None = None,
        steps: int | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        durations: Tensor | float | None = None,
        gaps: Tensor | tuple[Tensor, ...] | None = None,
        generator: torch.Generator | None = None,
        dropout_masks: DropoutMasks | None = None,
        all_layers: bool = False,
    ) -> tuple[Any, States]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, in_channels, *space), time first with batch_first=False, or without a batch axis; or a
                `PackedSequence` with data (sum of lengths, in_channels, *space). None in a layer without input
                (`in_channels=0`), which needs `steps` and `state`.
            state: (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros. If all layers have
                the same channels and grid, each may be one tensor (layers · D, batch, hidden_channels, *grid). The
                rows are in the order before packing.
            hx: Another name of `state`, as in `torch.nn.LSTM`.
            steps: Number of steps of a layer without input.
            lengths: Valid steps of each row, 0 to time; the rest is masked.
            mask: True where a step is valid (batch, time).
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            generator: Source of random numbers in training; None means PyTorch's global one.
            dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several
                calls, or one dropout over a sequence in parts.
            all_layers: Whether the outputs of every layer are returned, before dropout, as a tuple from the first to
                the last.

        Returns:
            output and (h_n, c_n); with merge `separate` each output is a tuple, forward first. Of a `PackedSequence`,
            each output is packed in the same way.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            DtypeError: if x has another type than the weights, or is sparse.
            StateError: if the state does not fit the batch or the grid.
        """
        spec, first = self.spec, self.batch_first
        state = inputs.one_state("state", state, hx)
        if (
            torch.compiler.is_compiling()
            and lengths is mask is durations is gaps is None
            and isinstance(x, Tensor)
            and self._trains_faster_outside_a_graph(x)
        ):
            result: tuple[Any, States] = modes.call_outside_graph(
                ConvLSTM.forward,  # a subclass may have another `forward`
                self,
                x,
                state,
                generator=generator,
                dropout_masks=dropout_masks,
                all_layers=all_layers,
            )
            return result
        if isinstance(x, PackedSequence) and spec.in_channels and steps is None:
            _check_alone(lengths, mask)
            padded, lengths = unpack(spec, x, first)
            output, final_state = ConvLSTM.forward(  # a subclass may have another `forward`
                self,
                padded,
                state,
                lengths=lengths,
                durations=durations,
                gaps=gaps,
                generator=generator,
                dropout_masks=dropout_masks,
                all_layers=all_layers,
            )
            return pack(output, x, lengths, first), final_state
        frames, batched = self._frames(x, state, steps)
        check_generator(generator, frames)
        reader = inputs.CallReader(frames, frames.shape[1], frames.shape[0], first)
        valid = reader.valid_steps(lengths, mask, batched)
        masks = self._masks(frames, generator, dropout_masks)
        outputs, final = run_stack(
            spec,
            self.layer_weights,
            frames,
            self._states(state, reader, batched),
            StepInputs(
                valid,
                reader.durations(spec, durations, valid),
                reader.gaps(spec, gaps, valid),
                masks,
            ),
            steps=frames.shape[0],  # not len, which would fix a dynamic length
            every_layer=all_layers,
            checkpoint=self.checkpoint if torch.is_grad_enabled() and not torch.compiler.is_exporting() else False,
            rows=self.rows,
        )
        return self._results(outputs, final, batched=batched, all_layers=all_layers)

    def _frames(self, x: Any, state: Any, steps: int | None) -> tuple[Tensor, bool]:
        """Return the frames of a call time first, and whether it has a batch axis, after checking them."""
        weight = self.layer_weights()["weight_hh"]
        if calls.check_input(self.spec, x, steps):
            inputs.check_tensor("x", x, weight)
            return inputs.time_first(self.spec, x, self.batch_first)
        return inputs.frames_of_state(self.spec, state, steps, weight)

    def _results(
        self, outputs: list[tuple[Tensor, ...]], final: list[State], *, batched: bool, all_layers: bool
    ) -> tuple[Any, States]:
        """Return what a call returns, from the outputs of each layer and the final states."""
        pairs = final if batched else [(h.squeeze(0), c.squeeze(0)) for h, c in final]
        join = channel_concatenation(self.spec)
        if all_layers and torch.is_grad_enabled():
            # the next layer saved these arrays for its backward pass, and the caller may change them in place
            outputs = [*(tuple(part.clone() for part in parts) for parts in outputs[:-1]), outputs[-1]]
        merged = [
            merge_directions([self._user_layout(part, batched) for part in parts], self.spec.merge, join)
            for parts in outputs
        ]
        return (tuple(merged) if all_layers else merged[-1]), (tuple(h for h, _ in pairs), tuple(c for _, c in pairs))

    def _trains_faster_outside_a_graph(self, x: Tensor) -> bool:
        """Return whether a graph that is being compiled may end here, so that training takes the eager time.

        As an operator of the graph, the fused implementation has to copy its outputs, and PyTorch their gradient.
        """
        is_fused = all(layer.is_standard_cell for layer in self.spec.layers)
        return (
            torch.is_grad_enabled()
            and x.device.type == "cpu"
            and is_fused
            and not (self.training and self.spec.recurrent_dropout)
            and not torch.compiler.is_exporting()
            and not modes.transforms_are_active()
            and modes.may_end_graph()
        )

    def sample_masks(
        self,
        x: Tensor | PackedSequence | None,
        steps: int | None = None,
        *,
        state: States | tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> DropoutMasks:
        """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

        Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others.

        Args:
            x: Frames as of a call, of which batch, size, type and device count. None in a layer without input, which
                needs `steps` and `state`.
            steps: Number of steps of the whole sequence; None takes that of x.
            state: Initial (h_0, c_0) as of a call, of a layer without input.
            generator: Source of random numbers; None means PyTorch's global one.

        Returns:
            The masks, per-step ones (batch, time, channels, *grid); without any mask for a layer without a random part.

        Example:
            >>> layer = ConvLSTM(1, 8, kernel_size=3, recurrent_dropout=0.2, zoneout_h=0.1)
            >>> x = torch.ones(2, 5, 1, 8, 8)
            >>> masks = layer.sample_masks(x)
            >>> whole, _ = layer(x, dropout_masks=masks)
            >>> first, state = layer(x[:, :3], dropout_masks=masks[:3])
            >>> second, _ = layer(x[:, 3:], state, dropout_masks=masks[3:])
            >>> torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-6)
            True
        """
        if isinstance(x, PackedSequence):
            x, _ = unpack(self.spec, x, self.batch_first)
        count, weight = dropout.count_steps(self.spec, x, state, steps), self.layer_weights()["weight_hh"]
        if x is None:
            frames, _ = inputs.frames_of_state(self.spec, state, count, weight)
        else:
            inputs.check_tensor("x", x, weight)
            frames, _ = inputs.time_first(self.spec, x, self.batch_first)
        check_generator(generator, frames)
        count = frames.shape[0] if count is None else count
        sampled = sample_masks(self.spec, frames, tuple(frames.shape[3:]), count, generator)
        return dropout.batch_first(self.spec, sampled, swap_time_and_batch)

    def _masks(
        self, frames: Tensor, generator: torch.Generator | None, masks: DropoutMasks | None
    ) -> DropoutMasks | None:
        """Return the masks of a call, time first."""
        train = "Call `train()` before the call."
        dropout.check_use(masks, self.training, generator is not None, "generator", train)
        if masks is not None:
            return read_masks(self.spec, masks, frames)
        if not self.training:
            return None
        if self.spec.is_random and isinstance(frames.shape[0], torch.SymInt) and torch.compiler.is_exporting():
            raise SpecError(
                "training",
                expected="evaluation, for an exported program with an open number of steps",
                received="training with dropout or zoneout",
                hint="Call `eval()` before the export.",
            )
        return sample_masks(self.spec, frames, tuple(frames.shape[3:]), frames.shape[0], generator)

    def _user_layout(self, output: Tensor, batched: bool) -> Tensor:
        if not batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output


def _check_alone(lengths: Any, mask: Any) -> None:
    """Raise an error for lengths or a mask of a packed sequence, which has its own lengths."""
    for name, value in (("lengths", lengths), ("mask", mask)):
        if value is not None:
            raise ShapeError(
                name,
                expected="None with a PackedSequence, which has its own lengths",
                received=type(value).__name__,
                hint=f"Remove `{name}`, or unpack the sequence with `torch.nn.utils.rnn.pad_packed_sequence`.",
            )
