"""The options of a forecaster: an encoder, the use of its states, and the output of frames."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from convlstm.errors import SpecError
from convlstm.spec import parsing
from convlstm.spec.geometry import effective_kernel
from convlstm.spec.options import ConvLSTMSpec

OUTPUT_ACTIVATIONS = ("identity", "sigmoid", "relu", "softplus")
ROLLOUTS = ("states", "feedback")


@dataclass(frozen=True, kw_only=True)
class ForecasterSpec:
    """Every option of a forecaster of frame sequences.

    `rollout="states"` is the encoder–forecaster of Shi et al. (2015): the encoder's final states start a second
    stack of the same widths, whose first layer has no input. `rollout="feedback"` is one stack that predicts the
    next frame and takes its own prediction as the next input (the ConvLSTM of OpenSTL).

    With `thresholds` the model forecasts events: its output is one logit per threshold, and sigmoid(logit) is the
    probability that the value of the first frame channel reaches the threshold. The logits never increase with the
    threshold.

    With `detail_channels` the output is made at full resolution: two convolutions of the last input frames, and these
    frames, are features, and the hidden states give a gain and an offset for each feature and lead time.

    Args:
        encoder: The stack over the patched input frames; its in_channels is frame_channels · patch_size².
        frame_channels: Channels of a frame.
        patch_size: Side p of the square patches folded into channels (channel order c·p² + dy·p + dx).
        rollout: `states` or `feedback`.
        head_bias: Whether the 1×1 output convolution has a bias.
        output_activation: identity, sigmoid, relu or softplus.
        residual: Whether the last observed frame (with `feedback`, the last input frame) is added to the output.
        thresholds: Increasing thresholds in the units of the data; empty for a forecast of frames.
        detail_channels: Channels of the convolutions at full resolution; 0 for an output made of patches.
        detail_frames: Last input frames that these convolutions read.
        detail_kernel: Side of their kernels, an odd number.

    Raises:
        SpecError: for an encoder whose states cannot start a forecaster, or any option out of range.

    Example:
        >>> stack = ConvLSTMSpec(in_channels=16, hidden_channels=256, kernel_size=5, peephole="channel")
        >>> ForecasterSpec(encoder=stack, patch_size=4).head_channels
        256
    """

    encoder: ConvLSTMSpec
    frame_channels: int = 1
    patch_size: int = 1
    rollout: str = "states"
    head_bias: bool = True
    output_activation: str = "identity"
    residual: bool = False
    thresholds: tuple[float, ...] = ()
    detail_channels: int = 0
    detail_frames: int = 1
    detail_kernel: int = 3

    def __post_init__(self) -> None:
        parsing.integer("frame_channels", self.frame_channels, 1)
        parsing.integer("patch_size", self.patch_size, 1)
        parsing.choice("rollout", self.rollout, ROLLOUTS)
        parsing.choice("output_activation", self.output_activation, OUTPUT_ACTIVATIONS)
        for name in ("head_bias", "residual"):
            parsing.flag(name, getattr(self, name))
        object.__setattr__(self, "thresholds", parsing.increasing("thresholds", self.thresholds))
        parsing.integer("detail_channels", self.detail_channels, 0)
        parsing.integer("detail_frames", self.detail_frames, 1)
        parsing.integer("detail_kernel", self.detail_kernel, 1)
        if not isinstance(self.encoder, ConvLSTMSpec):
            raise SpecError(
                "encoder",
                expected="a ConvLSTMSpec",
                received=type(self.encoder).__name__,
                hint="Build the encoder with `ConvLSTMSpec(...)`, or use `ForecasterSpec.from_dict`.",
            )
        self._check_encoder()
        self._check_output()

    @property
    def output_channels(self) -> int:
        """Channels of the output: one per threshold, or those of a frame."""
        return len(self.thresholds) or self.frame_channels

    @property
    def patch_channels(self) -> int:
        """Channels of a patched frame."""
        return self.frame_channels * self.patch_size**2

    @property
    def head_channels(self) -> int:
        """Input channels of the output convolution: all hidden channels, or those of the last layer with `feedback`."""
        hidden = self.encoder.hidden_channels
        return int(sum(hidden)) if self.rollout == "states" else int(hidden[-1])

    @property
    def detail_features(self) -> int:
        """Features at full resolution: the channels of the convolutions, and the frames that they read."""
        return self.detail_channels + self.detail_frames * self.frame_channels if self.detail_channels else 0

    @property
    def head_outputs(self) -> int:
        """Output channels of the output convolution: a patch, or with `detail_channels` the gains and offsets."""
        return 2 * self.detail_features or self.output_channels * self.patch_size**2

    @cached_property
    def forecaster(self) -> ConvLSTMSpec:
        """The second stack: the encoder without input to its first layer and without memory decay."""
        encoder = self.encoder
        return replace(
            encoder,
            in_channels=0,
            memory_decay=False,
            input_dropout=encoder.input_dropout if encoder.depth > 1 else 0.0,
            # the first layer has no input convolution
            stride=[1, *encoder.stride[1:]],
            padding=["same", *encoder.padding[1:]],
            dilation=[1, *encoder.dilation[1:]],
            groups=[1, *encoder.groups[1:]],
        )

    @property
    def uses_durations(self) -> bool:
        """Whether the model needs the duration of each step."""
        return self.encoder.duration_strategy != "none"

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return plain | {"encoder": self.encoder.to_dict(), "thresholds": list(self.thresholds)}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> ForecasterSpec:
        """Return the spec written by `to_dict`; an unknown or missing option raises an error."""
        parsing.check_keys("spec", options, cls)
        return cls(**(options | {"encoder": ConvLSTMSpec.from_dict(options["encoder"])}))

    def _check_output(self) -> None:
        """Raise an error for options of the output that exclude each other."""
        if self.detail_kernel % 2 == 0:
            raise SpecError(
                "detail_kernel",
                expected="an odd number",
                received=repr(self.detail_kernel),
                hint=f"Pass `detail_kernel={self.detail_kernel + 1}`.",
            )
        events = "thresholds, since the output are logits of events"
        wants: list[tuple[str, object, object, str]] = []
        if self.thresholds:
            wants += [
                ("rollout", self.rollout, "states", events),
                ("residual", self.residual, False, events),
                ("output_activation", self.output_activation, "identity", events),
            ]
        if self.detail_channels:
            wants.append(("rollout", self.rollout, "states", "detail_channels"))
        else:
            for name in ("detail_frames", "detail_kernel"):
                default = type(self).__dataclass_fields__[name].default
                wants.append((name, getattr(self, name), default, "detail_channels=0, where it has no effect"))
        for name, received, expected, why in wants:
            if received != expected:
                raise SpecError(
                    name,
                    expected=f"{expected!r} with {why}",
                    received=repr(received),
                    hint=f"Pass `{name}={expected!r}`.",
                )

    def _check_encoder(self) -> None:
        encoder = self.encoder
        wants: tuple[tuple[str, object, object, str], ...] = (
            ("encoder.in_channels", encoder.in_channels, self.patch_channels, "frame_channels · patch_size²"),
            ("encoder.spatial_dims", encoder.spatial_dims, 2, "frames have height and width"),
            ("encoder.direction", encoder.direction, "forward", "a forecast has no later frames"),
            ("encoder.masked_output", encoder.masked_output, "zero", "the outputs of the encoder are not used"),
        )
        if self.rollout == "feedback":
            # the duration of a predicted frame would act one frame late, so that lead times would be wrong
            why = "rollout='feedback' supports constant time steps only"
            wants += (
                ("encoder.duration_strategy", encoder.duration_strategy, "none", why),
                ("encoder.memory_decay", encoder.memory_decay, False, why),
            )
        for name, received, expected, why in wants:
            if received != expected:
                option = name.removeprefix("encoder.")
                hint = f"Build the encoder with `{option}={expected!r}`."
                raise SpecError(name, expected=f"{expected!r} ({why})", received=repr(received), hint=hint)
        pairs = zip(encoder.kernel_size, encoder.dilation, strict=True)
        spans = [effective_kernel(k, d) for ks, ds in pairs for k, d in zip(ks, ds, strict=True)]
        probe = (2 * max(spans),) * 2
        if any(grid != probe for grid in encoder.grids(probe)):
            raise SpecError(
                "encoder",
                expected="layers whose output has the size of their input",
                received=f"stride {encoder.stride[0]} and padding {encoder.padding[0]!r} in its first layer",
                hint="Use `stride=1` and `padding='same'`; increase `patch_size` for a coarser grid.",
            )
