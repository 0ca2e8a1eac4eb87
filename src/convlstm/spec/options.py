"""Every option of a stack of ConvLSTM layers, validated and frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from convlstm.errors import SpecError
from convlstm.spec import parsing
from convlstm.spec.choices import (
    ACTIVATIONS,
    ACTS_WITH,
    DIRECTIONS,
    DURATION_ACTIVATIONS,
    DURATION_STRATEGIES,
    MASKED_OUTPUTS,
    MERGES,
    NORMS,
    PEEPHOLES,
    PER_LAYER,
    RECURRENT_ACTIVATIONS,
)
from convlstm.spec.geometry import AXIS_NAMES, BOUNDARIES
from convlstm.spec.layer import LayerSpec


@dataclass(frozen=True, kw_only=True)
class ConvLSTMSpec:
    """Every option of a stack of convolutional LSTM layers (equations: `convlstm.reference.recurrence`).

    An option per layer and axis takes one value, a tuple with one value per spatial axis, or a list with one item per
    layer, whose items may be tuples. A list of numbers is read per axis if its length is the number of axes and not of
    layers; if it fits both, it is an error. Unknown and contradictory options raise an error.

    Args:
        in_channels: Channels of the input frames; 0 for a stack whose first layer has no input convolution.
        hidden_channels: Channels of h and c; per layer.
        kernel_size: Kernel of the input convolution; per layer, per axis. Even sizes work.
        num_layers: Number of layers; None takes the length of a list of hidden channels, or 1.
        spatial_dims: 1, 2 or 3 spatial axes; None takes the length of a tuple in `kernel_size`, or 2.
        recurrent_kernel_size: Kernel of the recurrent convolution; None repeats `kernel_size`.
        stride: Stride of the input convolution; the state has the size of its output.
        padding: `same` (TensorFlow's rule), `valid`, or points per axis.
        dilation: Dilation of the input convolution.
        recurrent_dilation: Dilation of the recurrent convolution, which keeps the size of h.
        groups: Groups of the input convolution, acting inside each gate.
        boundary: `zeros`, `replicate`, `reflect` or `circular`, one value or one per axis, for both convolutions.
        bias: Whether the gates have a bias.
        forget_bias: Value added to the forget gate's bias at initialisation; None means 1 with a bias.
        peephole: `none`, `channel` (one weight per channel) or `pixel` (one per channel and grid point).
        input_size: Spatial size of the input frames, for `peephole="pixel"` only.
        activation: φ, of candidate and output: tanh, relu, identity, sigmoid, softsign or elu.
        recurrent_activation: σ, of the gates: sigmoid, hard_sigmoid or hard_sigmoid_keras2.
        norm: `none`, `layer` or `group` normalisation of each gate before its bias.
        norm_groups: Number of channel groups, for `norm="group"` only.
        direction: `forward`, `reverse` or `bidirectional`.
        merge: How two directions become one output: concat, sum, mul, ave or separate.
        masked_output: Output of a masked step: `zero`, or `hold` for the previous output.
        dropout: Rate between layers, a new mask each step.
        input_dropout: Rate on the input of every layer, one mask per call.
        recurrent_dropout: Rate on h before the recurrent convolution, one mask per call.
        zoneout_h: Probability that an element of h keeps its previous value, a new mask each step.
        zoneout_c: The same for c.
        duration_strategy: How the step's duration scales the candidate: none, linear, log, log1p, scalar, exp, mlp,
            or a function of the relative duration in the framework's arrays (such a spec cannot be saved).
        reference_duration: Δ0, the duration that counts as 1, in the unit of the durations.
        duration_eps: ε in log(max(r, ε)).
        duration_damping: Factor before the network's output in `exp`.
        duration_hidden: Widths of the hidden layers of the duration network.
        duration_activation: Activation of the duration network.
        duration_features: 1, or `channel` for one factor per hidden channel.
        memory_decay: Whether c decays with the time since the last valid frame.

    Raises:
        SpecError: for an option that is out of range or without effect.
        ShapeError: if `peephole="pixel"` and the grid of a layer is empty; the message names the axis.

    Example:
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=[8, 4], kernel_size=3)
        >>> [layer.in_channels for layer in spec.layers]
        [1, 8]
    """

    in_channels: int
    hidden_channels: Any
    kernel_size: Any
    num_layers: int | None = None
    spatial_dims: int = None  # type: ignore[assignment]  # an integer after __post_init__
    recurrent_kernel_size: Any = None
    stride: Any = 1
    padding: Any = "same"
    dilation: Any = 1
    recurrent_dilation: Any = 1
    groups: Any = 1
    boundary: Any = "zeros"
    bias: bool = True
    forget_bias: float | None = None
    peephole: str = "none"
    input_size: Any = None
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    norm: str = "none"
    norm_groups: int | None = None
    direction: str = "forward"
    merge: str = "concat"
    masked_output: str = "zero"
    dropout: float = 0.0
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    duration_strategy: str | Callable[[Any], Any] = "none"
    reference_duration: float = 1.0
    duration_eps: float = 1e-6
    duration_damping: float = 0.1
    duration_hidden: Any = (16,)
    duration_activation: str = "tanh"
    duration_features: int | str = 1
    memory_decay: bool = False

    def __post_init__(self) -> None:
        depth = parsing.layer_count(self.num_layers, self.hidden_channels)
        rank = parsing.spatial_dims(self.spatial_dims, self.kernel_size, depth)
        self._set("num_layers", depth)
        self._set("spatial_dims", rank)
        self._set("in_channels", parsing.integer("in_channels", self.in_channels, 0))
        self._read_per_layer(depth, rank)
        self._read_words(rank)
        self._read_numbers()
        self._read_durations()
        self._check_effects()
        _ = self.layers  # builds every layer, so that wrong sizes raise an error here
        if self.peephole == "pixel":
            self.grids(self.input_size)

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of a layer, forward first."""
        return ("forward", "reverse") if self.direction == "bidirectional" else (self.direction,)

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers in their normalised form, first to last."""
        result: list[LayerSpec] = []
        for index in range(self.depth):
            per_layer = {name: getattr(self, name)[index] for name in PER_LAYER}
            in_channels = self.out_channels(index - 1) if index else self.in_channels
            layer = LayerSpec(index=index, in_channels=in_channels, stack=self, **per_layer)
            layer.check()
            result.append(layer)
        return tuple(result)

    @property
    def is_random(self) -> bool:
        """Whether training samples random masks."""
        return any((self.dropout, self.input_dropout, self.recurrent_dropout, self.zoneout_h, self.zoneout_c))

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.hidden_channels)

    def out_channels(self, index: int = -1) -> int:
        """Return the channels of a layer's merged output (`separate`: of one direction); the last layer by default."""
        hidden: int = self.hidden_channels[index]
        last = index in (-1, self.depth - 1)
        is_concatenated = self.merge == "concat" or (self.merge == "separate" and not last)
        return 2 * hidden if self.direction == "bidirectional" and is_concatenated else hidden

    def grids(self, input_size: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the state's grid of every layer for input frames of this spatial size."""
        result: list[tuple[int, ...]] = []
        for layer in self.layers:
            result.append(layer.grid(result[-1] if result else tuple(input_size)))
        return tuple(result)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        if callable(self.duration_strategy):
            raise SpecError(
                "duration_strategy",
                expected="the name of a strategy in a spec that is saved",
                received="a function",
                hint="Build the layer with a named strategy, such as `duration_strategy='mlp'`, to save it.",
            )
        options = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        if all(layer.has_dense_recurrence for layer in self.layers):
            del options["recurrent_dilation"]  # the files of specs without it stay byte-identical
        return options

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> ConvLSTMSpec:
        """Return the spec written by `to_dict`; an unknown or missing option raises an error."""
        parsing.check_keys("spec", options, cls)
        return cls(**options)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _read_per_layer(self, depth: int, rank: int) -> None:
        if self.recurrent_kernel_size is None:
            self._set("recurrent_kernel_size", self.kernel_size)
        for name in PER_LAYER:
            value = getattr(self, name)
            if name in ("hidden_channels", "groups"):
                items = parsing.per_layer(name, value, depth)
            else:
                items = parsing.per_layer_and_axis(name, value, depth, rank)
            self._set(name, tuple(_strict(name, item, rank) for item in items))

    def _read_words(self, rank: int) -> None:
        rules = tuple(self.boundary) if isinstance(self.boundary, (list, tuple)) else (self.boundary,) * rank
        if len(rules) != rank:
            raise SpecError(
                "boundary",
                expected=f"one value, or {rank} values, one per spatial axis",
                received=repr(self.boundary),
                hint=f"Pass one value for all axes, or a tuple of {rank}.",
            )
        self._set("boundary", tuple(parsing.choice("boundary", rule, BOUNDARIES) for rule in rules))
        for name, allowed in (
            ("peephole", PEEPHOLES),
            ("activation", ACTIVATIONS),
            ("recurrent_activation", RECURRENT_ACTIVATIONS),
            ("norm", NORMS),
            ("direction", DIRECTIONS),
            ("merge", MERGES),
            ("masked_output", MASKED_OUTPUTS),
            ("duration_activation", DURATION_ACTIVATIONS),
        ):
            parsing.choice(name, getattr(self, name), allowed)
        for name in ("bias", "memory_decay"):
            parsing.flag(name, getattr(self, name))

    def _read_numbers(self) -> None:
        for name in ("dropout", "input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c"):
            self._set(name, parsing.rate(name, getattr(self, name)))
        if self.dropout and self.depth == 1:
            raise SpecError(
                "dropout",
                expected="0 with one layer, because it acts between layers",
                received=self.dropout,
                hint="Use `input_dropout` or `recurrent_dropout`, or more layers.",
            )
        if self.input_dropout and self.in_channels == 0 and self.depth == 1:
            raise SpecError(
                "input_dropout",
                expected="0 in a layer without input",
                received=self.input_dropout,
                hint="Use `recurrent_dropout`.",
            )
        if self.forget_bias is None:
            self._set("forget_bias", 1.0 if self.bias else None)
        elif not self.bias:
            raise SpecError(
                "forget_bias",
                expected="None with bias=False",
                received=self.forget_bias,
                hint="Pass `bias=True`, or leave `forget_bias` out.",
            )
        else:
            self._set("forget_bias", parsing.number("forget_bias", self.forget_bias, -float("inf")))
        if self.norm_groups is not None or self.norm == "group":
            self._set("norm_groups", parsing.integer("norm_groups", self.norm_groups, 1))
        if self.input_size is None and self.peephole == "pixel":
            axes = ", ".join(AXIS_NAMES[self.spatial_dims]) + ("," if self.spatial_dims == 1 else "")
            raise SpecError(
                "input_size",
                expected="the spatial size of the input frames, which peephole='pixel' needs",
                received="None",
                hint=f"Give the size of the input frames as `input_size=({axes})`.",
            )
        if self.input_size is not None:
            self._set("input_size", parsing.per_axis("input_size", self.input_size, self.spatial_dims, 1))

    def _read_durations(self) -> None:
        if not callable(self.duration_strategy):
            parsing.choice("duration_strategy", self.duration_strategy, DURATION_STRATEGIES)
        for name in ("reference_duration", "duration_eps"):
            self._set(name, parsing.number(name, getattr(self, name), parsing.TINY))
        self._set("duration_damping", parsing.number("duration_damping", self.duration_damping, -float("inf")))
        parsing.check_length("duration_hidden", self.duration_hidden)
        hidden = self.duration_hidden if isinstance(self.duration_hidden, (list, tuple)) else (self.duration_hidden,)
        self._set("duration_hidden", tuple(parsing.integer("duration_hidden", n, 1) for n in hidden))
        if self.duration_features not in (1, "channel") or isinstance(self.duration_features, bool):
            raise SpecError(
                "duration_features",
                expected="1 or 'channel'",
                received=repr(self.duration_features),
                hint="Pass `duration_features=1` or `duration_features='channel'`.",
            )

    def _check_effects(self) -> None:
        defaults = {item.name: item.default for item in fields(self)}
        for name, (other, values) in ACTS_WITH.items():
            if getattr(self, name) != defaults[name] and getattr(self, other) not in values:
                raise SpecError(
                    name,
                    expected=f"its default, because it has an effect only with {other} {' or '.join(values)}",
                    received=repr(getattr(self, name)),
                    hint=f"Leave `{name}` out, or pass `{other}={values[0]!r}`.",
                )


def _strict(name: str, value: object, rank: int) -> Any:
    if name in ("hidden_channels", "groups"):
        return parsing.integer(name, value, 1)
    if name == "padding":
        if isinstance(value, str):
            return parsing.choice(name, value, ("same", "valid"))
        return parsing.per_axis(name, value, rank, 0)
    return parsing.per_axis(name, value, rank, 1)


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
