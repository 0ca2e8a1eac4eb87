"""The input of one training step, and the stacks that a model runs for it."""

from __future__ import annotations

from dataclasses import dataclass

from convlstm.errors import ShapeError
from convlstm.spec import parsing
from convlstm.spec.calls import check_forecast, frame_axes
from convlstm.spec.calls import check_frames as check_layer_frames
from convlstm.spec.choices import PRECISIONS
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Size
from convlstm.weights.canonical import Spec


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The frames of one sample (time, channel, *space), the batch, and the horizon of a forecaster.

    `bfloat16` is autocast with weights and cell state in float32. A number below 1 is a SpecError.
    """

    shape: Size
    batch: int = 1
    horizon: int = 12
    precision: str = "float32"

    def __post_init__(self) -> None:
        for axis, number in enumerate(self.shape):
            parsing.integer("input", number, 0 if axis == 1 else 1)  # a stack without input has no channels
        parsing.integer("batch", self.batch, 1)
        parsing.integer("horizon", self.horizon, 1)
        parsing.choice("precision", self.precision, PRECISIONS)

    @property
    def full_shape(self) -> Size:
        """Shape of the frames (batch, time, channel, *space)."""
        return (self.batch, *self.shape)

    @property
    def steps(self) -> int:
        """Number of input frames."""
        return self.shape[0]

    @property
    def size(self) -> Size:
        """Points per spatial axis of a frame."""
        return self.shape[2:]


def check_frames(spec: Spec, shape: Size) -> None:
    """Raise ShapeError, with the message of the model, for frames (batch, time, channel, *space) that do not fit it."""
    if isinstance(spec, ForecasterSpec):
        check_forecast(spec, shape)
        return
    axes = frame_axes(spec, "batch", "time")
    if not check_layer_frames(spec, shape, axes):  # a workload always has a batch axis
        raise ShapeError(
            "x", expected=f"{len(axes)} axes ({', '.join(axes)})", received=f"shape {shape}", hint="Pass every axis."
        )


@dataclass(frozen=True)
class Call:
    """The runs of one stack over a sequence in a training step, each from the states of the run before it."""

    part: str  # `layer`, `encoder` or `forecaster`
    spec: ConvLSTMSpec
    steps: int  # of one run
    size: Size  # of its input
    runs: int = 1
    input_gradient: bool = False
    state_gradient: bool = False  # whether the gradient of its initial states is taken

    @property
    def continues(self) -> bool:
        """Whether it starts from the final states of a previous run; a layer starts from the states of its caller."""
        return self.state_gradient and self.part != "layer"


def calls(spec: Spec, workload: Workload) -> list[Call]:
    """Return the runs of a model's stacks in order: for a forecaster over the input frames, then the lead times."""
    if isinstance(spec, ConvLSTMSpec):
        # the initial state of a layer may be trainable, so its gradient is counted; frames are not
        return [Call("layer", spec, workload.steps, workload.size, state_gradient=True)]
    size = tuple(n // spec.patch_size for n in workload.size)
    first = Call("encoder", spec.encoder, workload.steps, size)
    if spec.rollout == "feedback":  # the first forecast uses the last encoder state and needs no step
        repeats = workload.horizon - 1
        return [first, Call("encoder", spec.encoder, 1, size, runs=repeats, input_gradient=True, state_gradient=True)]
    return [first, Call("forecaster", spec.forecaster, workload.horizon, size, state_gradient=True)]
