"""The convolutional LSTM layer for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from convlstm.contract.durations import check_durations
from convlstm.contract.geometry import AXIS_NAMES
from convlstm.contract.spec import ConvLSTMSpec, LayerOptions
from convlstm.contract.weights import initialise, layer_shapes
from convlstm.engine import torch as engine
from convlstm.engine.torch import Masks, State
from convlstm.errors import ShapeError, StateError
from convlstm.torch.weights import load_canonical, native_name, register

States = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class ConvLSTM(nn.Module):
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
        batch_first: Whether batch comes before time in input and output.
        bidirectional: Whether each layer also runs backwards in time.
        device: As in every PyTorch module.
        dtype: As in every PyTorch module.
        **options: Every further option of `ConvLSTMSpec`: peephole, boundary, norm, dropout, durations and so on.

    Shapes:
        x:       (batch, time, in_channels, *space), or (time, in_channels, *space) without a batch
        output:  (batch, time, D · hidden_channels, *grid) with D = 2 if bidirectional (merge concat), else 1
        h_n, c_n: tuples indexed layer · D + direction, forward first, each (batch, hidden_channels, *grid)

    Attributes:
        spec: The options as a `ConvLSTMSpec`.
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

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Any,
        num_layers: int | None = None,
        *,
        stride: Any = 1,
        padding: Any = "same",
        dilation: Any = 1,
        groups: int | Sequence[int] = 1,
        bias: bool = True,
        batch_first: bool = True,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        if bidirectional:
            options["direction"] = "bidirectional"
        spec = ConvLSTMSpec(
            in_channels=in_channels,
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
        self._build(spec, batch_first, device, dtype)

    @classmethod
    def from_spec(
        cls, spec: ConvLSTMSpec, *, batch_first: bool = True, device: Any = None, dtype: torch.dtype | None = None
    ) -> ConvLSTM:
        """Build the layer from a spec, as read from a file.

        Args:
            spec: Every option of the stack.
            batch_first: Whether batch comes before time.
            device: As in every PyTorch module.
            dtype: As in every PyTorch module.

        Returns:
            A freshly initialised layer.

        Example:
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
            >>> ConvLSTM.from_spec(spec).spec == spec
            True
        """
        layer = cls.__new__(cls)
        layer._build(spec, batch_first, device, dtype)
        return layer

    def _build(self, spec: ConvLSTMSpec, batch_first: bool, device: Any, dtype: torch.dtype | None) -> None:
        nn.Module.__init__(self)
        self.spec, self.batch_first = spec, batch_first
        register(self, spec, device=device, dtype=dtype)
        self._names = {
            (layer.index, direction): {
                name: native_name(f"layers.{layer.index}.{direction}.{name}") for name in layer_shapes(layer)
            }
            for layer in spec.layers
            for direction in spec.directions
        }
        self.reset_parameters()

    def reset_parameters(self, seed: int | None = None) -> None:
        """Start afresh from the contract's initialisation.

        Args:
            seed: Any integer of at least 0; None draws one from PyTorch's global generator.
        """
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        load_canonical(self, initialise(self.spec, seed))

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults, as `torch.nn.LSTM` prints them."""
        spec = self.spec
        defaults = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, spatial_dims=spec.spatial_dims)
        parts = [f"{spec.in_channels}, {_short(spec.hidden_channels)}, kernel_size={_short(spec.kernel_size)}"]
        shown = {"in_channels", "hidden_channels", "kernel_size"}
        if spec.recurrent_kernel_size == spec.kernel_size:
            shown.add("recurrent_kernel_size")
        for name in ConvLSTMSpec.__dataclass_fields__:
            value, default = getattr(spec, name), getattr(defaults, name)
            if name not in shown and _short(value) != _short(default):
                parts.append(f"{name}={_short(value)!r}")
        return ", ".join(parts if self.batch_first else [*parts, "batch_first=False"])

    def forward(
        self,
        x: Tensor,
        state: States | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        durations: Tensor | float | None = None,
        gaps: Tensor | tuple[Tensor, ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, States]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, in_channels, *space), time first with batch_first=False, or without a batch axis.
            state: (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
            lengths: Valid steps of each row, 0 to time; the rest is masked.
            mask: True where a step is valid (batch, time).
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            generator: Source of the random draws in training; None means PyTorch's global one.

        Returns:
            output and (h_n, c_n); with merge `apart` output is a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid.
        """
        frames, batched = self._time_first(x)
        steps, batch = frames.shape[:2]
        grids = self.spec.grids(tuple(frames.shape[3:]))
        valid = self._valid_steps(lengths, mask, batch, steps, frames.device)
        output, final = run_stack(
            self.spec,
            self._weights,
            frames,
            self._states(state, frames, grids, batched),
            steps=steps,
            mask=valid,
            durations=self._durations(durations, valid, batch, steps, frames),
            gaps=self._gaps(gaps, valid, batch, steps),
            draws=Draws(generator) if self.training else None,
        )
        return self._user_layout(output, batched), _unzip(final, batched)

    def _weights(self, index: int, direction: str) -> dict[str, Tensor]:
        return {name: getattr(self, native) for name, native in self._names[index, direction].items()}

    def _time_first(self, x: Tensor) -> tuple[Tensor, bool]:
        rank = self.spec.spatial_dims
        axes = ["batch", "time", f"channel={self.spec.in_channels}", *AXIS_NAMES[rank]]
        if not self.batch_first:
            axes[0], axes[1] = axes[1], axes[0]
        if x.ndim not in (rank + 2, rank + 3) or x.shape[-rank - 1] != self.spec.in_channels:
            raise ShapeError(
                "x",
                expected=f"({', '.join(axes)})",
                received=f"shape {tuple(x.shape)}",
                mend="permute the axes, or build the layer with the channels of your data.",
            )
        self._check_dtype(x)
        if x.ndim == rank + 2:
            return x.unsqueeze(1), False
        return x.transpose(0, 1) if self.batch_first else x, True

    def _check_dtype(self, x: Tensor) -> None:
        weight: Tensor = getattr(self, self._names[0, self.spec.directions[0]]["weight_hh"])
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ShapeError(
                "x",
                expected=f"dtype {weight.dtype}, the weights' own",
                received=x.dtype,
                mend=f"convert the input, x.to({weight.dtype}), or the layer, layer.to({x.dtype}).",
            )

    def _valid_steps(self, lengths: Any, mask: Tensor | None, batch: int, steps: int, device: Any) -> Tensor | None:
        if lengths is not None and mask is not None:
            raise ShapeError("mask", expected="None beside lengths", received="both", mend="give one of them.")
        if lengths is not None:
            counts = torch.as_tensor(lengths, device=device)
            if counts.shape != (batch,) or counts.min() < 0 or counts.max() > steps:
                raise ShapeError(
                    "lengths",
                    expected=f"{batch} numbers from 0 to {steps}",
                    received=counts.tolist(),
                    mend="give the valid steps of each row.",
                )
            return torch.arange(steps, device=device) < counts[:, None]
        if mask is not None and tuple(mask.shape) != (batch, steps):
            raise ShapeError(
                "mask",
                expected=f"(batch, time) = {(batch, steps)}",
                received=f"shape {tuple(mask.shape)}",
                mend="give one bool per frame.",
            )
        return None if mask is None else mask.bool()

    def _durations(self, given: Any, valid: Tensor | None, batch: int, steps: int, frames: Tensor) -> Tensor | None:
        aware = self.spec.duration_strategy != "none"
        if aware != (given is not None):
            raise ShapeError(
                "durations",
                expected="(batch, time)" if aware else f"None with duration_strategy={self.spec.duration_strategy!r}",
                received=type(given).__name__,
                mend="give the duration of each step." if aware else "choose a duration_strategy to use them.",
            )
        if given is None:
            return None
        wide = torch.float64 if frames.dtype == torch.float64 else torch.float32
        values = torch.as_tensor(given, dtype=wide, device=frames.device)
        return _per_step("durations", values, valid, batch, steps, batch_first=self.batch_first)

    def _gaps(self, given: Any, valid: Tensor | None, batch: int, steps: int) -> dict[str, Tensor] | None:
        count = len(self.spec.directions) if self.spec.memory_decay else 0
        parts = () if given is None else given if isinstance(given, tuple) else (given,)
        if len(parts) != count:
            raise ShapeError(
                "gaps",
                expected=f"{count} array(s) (batch, time), one per direction" if count else "None without memory_decay",
                received=f"{len(parts)}",
                mend="make them with convlstm.contract.durations.durations_from_times.",
            )
        checked = [_per_step("gaps", gap, valid, batch, steps, batch_first=self.batch_first) for gap in parts]
        return dict(zip(self.spec.directions, checked, strict=True)) if count else None

    def _states(self, given: Any, frames: Tensor, grids: Sequence[tuple[int, ...]], batched: bool) -> list[State]:
        shapes = [
            (frames.shape[1], layer.hidden_channels, *grid)
            for layer, grid in zip(self.spec.layers, grids, strict=True)
            for _ in self.spec.directions
        ]
        if given is None:
            return [(frames.new_zeros(shape), frames.new_zeros(shape)) for shape in shapes]
        return read_states(given, shapes, batched)

    def _user_layout(self, output: Any, batched: bool) -> Any:
        if isinstance(output, tuple):
            return tuple(self._user_layout(part, batched) for part in output)
        if not batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output


class Draws:
    """The random draws of one call in training, taken from one generator in a fixed order.

    Args:
        generator: Source of randomness; None means PyTorch's global one.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def kept(self, rate: float, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """Return a factor of 0 or 1 / (1 − rate) per point, or None without a rate."""
        if not rate:
            return None
        return (self._uniform(shape, like) >= rate).to(like.dtype) / (1.0 - rate)

    def held(self, rate: float, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """Return 1 where zoneout keeps the old value, 0 elsewhere, or None without a rate."""
        return (self._uniform(shape, like) < rate).to(like.dtype) if rate else None

    def _uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator, device=like.device)


def run_stack(
    spec: ConvLSTMSpec,
    weights_of: Callable[[int, str], dict[str, Tensor]],
    x: Tensor | None,
    states: Sequence[State],
    *,
    steps: int,
    mask: Tensor | None = None,
    durations: Tensor | None = None,
    gaps: dict[str, Tensor] | None = None,
    draws: Draws | None = None,
    each: Callable[[Tensor], None] | None = None,
) -> tuple[Any, list[State]]:
    """Run every layer and direction over a time-first sequence.

    Args:
        spec: The stack.
        weights_of: Gives the arrays of a layer and direction.
        x: (time, batch, in_channels, *space), or None for a stack without input.
        states: (h, c) indexed layer · D + direction.
        steps: Number of steps.
        mask: True where a step is valid (batch, time).
        durations: Δ (batch, time).
        gaps: Per direction (batch, time).
        draws: Random draws in training, None in evaluation.
        each: Called with the merged output of every layer.

    Returns:
        The merged output of the last layer, time first (a tuple with merge `apart`), and the final states.
    """
    final: list[State] = []
    parts: list[Tensor] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            state = states[len(final)]
            output, after = engine.sequence(
                layer,
                weights_of(layer.index, direction),
                x,
                state,
                steps=steps,
                reverse=direction == "reverse",
                mask=mask,
                durations=durations,
                gaps=None if gaps is None else gaps[direction],
                masks=None if draws is None else _masks(spec, draws, x, state, steps),
            )
            parts.append(output)
            final.append(after)
        last = layer.index == spec.depth - 1
        if last and spec.merge == "apart" and len(parts) > 1:
            return tuple(parts), final
        x = _merged(parts, "concat" if spec.merge == "apart" else spec.merge)
        if each is not None:
            each(x)
        if draws is not None and not last:
            factor = draws.kept(spec.dropout, x.shape, x)
            x = x if factor is None else x * factor
    return x, final


def read_states(given: Any, shapes: Sequence[tuple[int, ...]], batched: bool = True) -> list[State]:
    """Return the states of a call as (h, c) per layer and direction, after checking them against their shapes.

    Args:
        given: (h_0, c_0), each a tensor (one layer and direction) or a tuple of tensors.
        shapes: The shape each must have, with the batch axis.
        batched: Whether the given tensors have that batch axis.

    Returns:
        (h, c) indexed layer · D + direction.

    Raises:
        StateError: naming the part, layer and direction that do not fit.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise StateError("state", expected="a pair (h_0, c_0)", received=type(given).__name__, mend="pass it so.")
    both = [(part,) if isinstance(part, Tensor) else tuple(part) for part in given]
    result = []
    for name, part in zip(("h_0", "c_0"), both, strict=True):
        if len(part) != len(shapes):
            raise StateError(
                name,
                expected=f"{len(shapes)} tensors, one per layer and direction",
                received=len(part),
                mend="pass what the layer returned as (h_n, c_n).",
            )
        own = [tensor if batched else tensor.unsqueeze(0) for tensor in part]
        for index, (tensor, shape) in enumerate(zip(own, shapes, strict=True)):
            if tuple(tensor.shape) != shape:
                what = "batch" if tensor.shape[1:] == shape[1:] else "shape"
                raise StateError(
                    f"{name}[{index}]",
                    expected=f"(batch, hidden_channels, *grid) = {shape}",
                    received=f"{tuple(tensor.shape)}, another {what}",
                    mend="start from None, or pass the state of a call with the same batch and grid.",
                )
        result.append(own)
    return list(zip(*result, strict=True))


def _masks(spec: ConvLSTMSpec, draws: Draws, x: Tensor | None, state: State, steps: int) -> Masks | None:
    rates = (spec.input_dropout, spec.recurrent_dropout, spec.zoneout_h, spec.zoneout_c)
    if not any(rates):
        return None
    h, c = state
    over_time = (steps, *h.shape)
    return Masks(
        None if x is None else draws.kept(spec.input_dropout, x.shape[1:], x),
        draws.kept(spec.recurrent_dropout, h.shape, h),
        draws.held(spec.zoneout_h, over_time, h),
        draws.held(spec.zoneout_c, over_time, c),
    )


def _merged(parts: Sequence[Tensor], merge: str) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return torch.cat(list(parts), dim=2)
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)


def _per_step(
    name: str, values: Tensor, valid: Tensor | None, batch: int, steps: int, *, batch_first: bool
) -> Tensor:
    """Return durations or gaps as (batch, time), after checking shape and, where values are at hand, range."""
    given = tuple(values.shape)
    full = (batch, steps) if batch_first else (steps, batch)
    if given == (*full, 1):
        values = values.squeeze(-1)
    if values.shape == full and not batch_first and given != (steps,):
        values = values.transpose(0, 1)
    if given not in ((), (steps,), full, (*full, 1)):
        raise ShapeError(
            name,
            expected=f"a number, (time,) or {full} or {(*full, 1)}",
            received=f"shape {given}",
            mend="give one value per step.",
        )
    values = values.expand(batch, steps)
    if values.device.type == "cpu" and not torch.compiler.is_compiling() and not engine.torch_fused.transforms_are_active():
        check_durations(name, values.detach().numpy(), None if valid is None else np.asarray(valid))
    return values


def _unzip(states: Sequence[State], batched: bool) -> States:
    pairs = states if batched else [(h.squeeze(0), c.squeeze(0)) for h, c in states]
    return tuple(h for h, _ in pairs), tuple(c for _, c in pairs)


def _short(value: Any) -> Any:
    if isinstance(value, tuple) and value and all(item == value[0] for item in value):
        return _short(value[0])
    return value
