"""The configuration of a run: data, model and training, validated before any work."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from convlstm.errors import ConfigError
from convlstm.frontend.processes import ONE_PROCESS
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec

MOST_STEPS = 10_000
"""Largest number of input frames, and of steps ahead."""

_LARGEST_RATE = 1e15  # the product of two is within float32, beyond which frameworks fail in many ways

Count = Annotated[int, Field(ge=1, strict=True)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kernel = StrictInt | list[StrictInt | list[StrictInt]]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# YAML and TOML parse 2018-05-20 as a date; days are text here, because some calendars have days that are no dates
Day = Annotated[str, BeforeValidator(lambda day: day.isoformat() if isinstance(day, date) else day)]
# one day is read as a list of it, and one width as that of one layer
Days = Annotated[Natural | list[Day], BeforeValidator(lambda day: [day] if isinstance(day, date) else day)]
Widths = Annotated[list[Count], BeforeValidator(lambda width: [width] if type(width) is int else width)]

# YAML aliases can make a small file very large, so the text of a wrong value is limited
BRIEF = reprlib.Repr()
BRIEF.maxlevel, BRIEF.maxlist, BRIEF.maxdict = 2, 4, 4

HINT = "Run `convlstm train --show-config` to list every option with its default."

READING_OPTIONS = (
    "variables",
    "units",
    "time_step",
    "time_dim",
    "y_dim",
    "x_dim",
    "rain",
    "accumulated",
    "missing",
    "select",
)
"""Options of the section `data` that are options of `open_frames`, by the same names."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Part):
    """Options of the data."""

    variables: list[str] = Field([], description="Variables, one per channel; empty reads the only gridded variable.")
    units: str | None = Field(None, description="Unit of the values, if it is missing in the file.")
    time_step: Positive | None = Field(None, description="Seconds between frames, if the file has no times.")
    time_dim: str | None = Field(None, description="Name of the time dimension; null finds it.")
    y_dim: str | None = Field(None, description="Name of the y dimension; null finds it.")
    x_dim: str | None = Field(None, description="Name of the x dimension; null finds it.")
    rain: bool | None = Field(
        None, description="Whether the values are rain; null decides by names and unit, true converts dBZ to mm/h."
    )
    accumulated: bool | None = Field(
        None, description="Whether sums of rain are since a start, to read their increase; null refuses such sums."
    )
    missing: list[float] | None = Field(
        None, description="Values that mean no data; null refuses negative rain and codes such as -999, [] keeps them."
    )
    select: dict[str, float | str] | None = Field(
        None, description="Coordinate values of other dimensions, such as {member: 0}; null selects nothing."
    )
    transform: Literal["auto", "log", "dbz", "standard", "identity"] = Field(
        "auto", description="Transform: auto, log, dbz, standard or identity; auto is log for rain, else standard."
    )
    log_top: Positive = Field(
        1.0, description="Model value of 100 mm/h, for the transform log; 7 makes a model of events learn faster."
    )
    input_length: Steps = Field(6, description="Number of input frames.")
    horizon: Steps = Field(12, description="Number of forecast frames in training; a forecast can have more.")
    max_gap: Positive | None = Field(
        None, description="Largest gap in a window, in seconds; null requires constant time steps."
    )
    validation: Days = Field(1, description="Validation days: a number, or a list of dates.")
    test: Days = Field(1, description="Test days for `convlstm evaluate`: a number, or a list of dates.")
    frame: Literal["fixed", "moving"] = Field(
        "fixed", description="fixed, or moving: past and future frames are moved along the motion at the start."
    )
    crop: Count | None = Field(96, description="Side of the square training crops in cells; null uses the whole grid.")

    @property
    def reading_options(self) -> dict[str, Any]:
        """The options of `open_frames`."""
        return self.model_dump(include=set(READING_OPTIONS))


class ModelConfig(_Part):
    """Options of the forecaster."""

    hidden_channels: Widths = Field([48, 48], min_length=1, description="Hidden channels of each layer.")
    kernel_size: Kernel = Field(
        3, description="Input kernel: one number, or a list per layer of numbers or [height, width]."
    )
    recurrent_kernel_size: Kernel | None = Field(None, description="Recurrent kernel; null repeats kernel_size.")
    patch_size: Count = Field(4, description="Side of the square patches that are folded into channels.")
    peephole: Literal["none", "channel"] = Field("none", description="Peephole connections: none or channel.")
    norm: Literal["none", "layer"] = Field("none", description="Normalisation of the gates: none or layer.")
    dropout: Share = Field(0.0, description="Dropout rate between layers.")
    recurrent_dropout: Share = Field(0.0, description="Dropout rate on the hidden state.")
    rollout: Literal["states", "feedback"] = Field(
        "states", description="states (encoder–forecaster) or feedback (each forecast frame is the next input)."
    )
    thresholds: list[float] = Field(
        [], description="Thresholds of events, such as 0.1, 1 and 5 mm/h; empty forecasts values instead."
    )
    detail_channels: Natural = Field(0, description="Features of an output at full resolution; 0 uses patches only.")
    detail_frames: Count = Field(4, description="Last input frames that these features are made of.")
    residual: bool | None = Field(
        None, description="Whether the last frame is added to the output; null does so unless there are thresholds."
    )
    output_activation: Literal["identity", "sigmoid", "relu", "softplus"] = Field(
        "identity", description="Output activation: identity, sigmoid, relu or softplus."
    )
    duration_strategy: Literal["none", "linear", "log", "log1p", "scalar", "exp", "mlp"] = Field(
        "none", description="Effect of the step duration: none, linear, log, log1p, scalar, exp or mlp."
    )
    memory_decay: bool = Field(False, description="Whether the cell state decays over gaps.")

    @property
    def adds_last_frame(self) -> bool:
        """Whether the last frame is added to the output."""
        return not self.thresholds if self.residual is None else self.residual

    def spec(self, frame_channels: int, reference_duration: float = 1.0) -> ForecasterSpec:
        """Return the forecaster for frames with this many channels; the usual step is the unit of durations."""
        uses_time = self.duration_strategy != "none" or self.memory_decay
        stack = ConvLSTMSpec(
            in_channels=frame_channels * self.patch_size**2,
            hidden_channels=list(self.hidden_channels),
            kernel_size=self.kernel_size,
            recurrent_kernel_size=self.recurrent_kernel_size,
            peephole=self.peephole,
            norm=self.norm,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            duration_strategy=self.duration_strategy,
            reference_duration=reference_duration if uses_time else 1.0,
            memory_decay=self.memory_decay,
        )
        return ForecasterSpec(
            encoder=stack,
            frame_channels=frame_channels,
            patch_size=self.patch_size,
            rollout=self.rollout,
            residual=self.adds_last_frame,
            output_activation=self.output_activation,
            thresholds=tuple(self.thresholds),
            detail_channels=self.detail_channels,
            detail_frames=self.detail_frames if self.detail_channels else 1,
        )


class TrainingConfig(_Part):
    """Options of the training."""

    start_from: str | None = Field(
        None, description="Model file or run folder whose weights and options the training starts with, or rain."
    )
    steps: Count = Field(2000, description="Number of optimiser steps.")
    batch_size: Count = Field(8, description="Windows per step, in all processes together.")
    accumulate: Count = Field(
        1, description="Parts of a batch whose gradients are computed one after another, to save memory; PyTorch only."
    )
    learning_rate: Positive = Field(2e-3, le=_LARGEST_RATE, description="Peak learning rate of AdamW.")
    warmup_steps: Natural = Field(50, description="Steps of linear warm-up before the cosine decay.")
    weight_decay: Share = Field(0.01, le=_LARGEST_RATE, description="Weight decay of the convolution kernels.")
    clip_norm: Positive = Field(1.0, description="Largest norm of the gradient.")
    absolute_error: Share = Field(0.3, description="Weight of the absolute error; the squared error has weight 1.")
    emphasis: dict[float, Share] = Field(
        {1.0: 1.0, 5.0: 2.0}, description="Extra loss weight of targets at or above a rain rate in mm/h; rain only."
    )
    threshold_weights: list[Share] = Field(
        [], description="Loss weight of each of `model.thresholds`; empty gives all the weight 1."
    )
    first_lead_weight: Positive = Field(
        1.0, description="Loss weight of the first lead time of events; that of the others decreases to 1 at the fifth."
    )
    augment: bool | Literal["auto"] = Field(
        "auto", description="Whether to flip and rotate windows; auto does so for rain only."
    )
    intensity: Share = Field(
        0.0, description="Standard deviation of the logarithm of a random factor on windows in the moving frame."
    )
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Decay per step of the average of the weights, such as 0.995; 0 keeps the last weights."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the convolutions: auto, float32 or bfloat16."
    )
    validate_every: Count = Field(100, description="Steps between validations; each validation saves the run.")
    validation_windows: Count = Field(32, description="Windows per validation, spread over the validation days.")
    patience: Count = Field(10, description="Validations without improvement before training stops.")


class Config(_Part):
    """All options of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    seed: Natural = Field(0, description="Seed of weights, batches and dropout.")


def validate(values: Mapping[str, Any]) -> Config:
    """Return the configuration of plain values by section, or raise an error about the first wrong one."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise _first_wrong(error) from error
    config.model.spec(frame_channels=1)
    ONE_PROCESS.check_batch(config.training.batch_size, config.training.accumulate)
    _check_crop(config)
    _check_durations(config)
    _check_events(config)
    return config


def _check_crop(config: Config) -> None:
    data, model = config.data, config.model
    if data.crop is not None and data.crop % model.patch_size:
        raise ConfigError(
            "data.crop",
            expected=f"a multiple of model.patch_size, which is {model.patch_size}",
            received=data.crop,
            hint="Change `data.crop` or `model.patch_size`.",
        )


def _check_durations(config: Config) -> None:
    data, model = config.data, config.model
    if data.max_gap is not None and model.duration_strategy == "none":
        raise ConfigError(
            "data.max_gap",
            expected="a model that uses the duration of each step",
            received="model.duration_strategy=none",
            hint="Set `model.duration_strategy`, for example to mlp, or leave `data.max_gap` out.",
        )
    if data.max_gap is None and (model.duration_strategy != "none" or model.memory_decay):
        raise ConfigError(
            "model.duration_strategy" if model.duration_strategy != "none" else "model.memory_decay",
            expected="data.max_gap to be set too",
            received="constant time steps only, where the option has no effect",
            hint="Set `data.max_gap` to the largest gap in seconds, or leave the option out.",
        )


def _check_events(config: Config) -> None:
    """Raise an error for options of events without thresholds, and of the moving frame where it does not fit."""
    data, model, training = config.data, config.model, config.training
    weights, thresholds = training.threshold_weights, model.thresholds
    if weights and len(weights) != len(thresholds):
        raise ConfigError(
            "training.threshold_weights",
            expected=f"one weight for each of the {len(thresholds)} values of model.thresholds",
            received=f"{len(weights)} weights",
            hint="Pass one weight per threshold, or leave the option out.",
        )
    if weights and not any(weights):
        raise ConfigError(
            "training.threshold_weights",
            expected="a weight above 0",
            received="zeros only",
            hint="Give at least one threshold a weight above 0.",
        )
    _check_effect(config)
    if training.first_lead_weight != 1 and not thresholds:
        raise _without_effect("training.first_lead_weight", training.first_lead_weight, "model.thresholds")
    if training.intensity and data.frame == "fixed":
        raise _without_effect("training.intensity", training.intensity, "data.frame=moving")
    if data.frame == "fixed":
        return
    if not thresholds:
        raise ConfigError(
            "data.frame",
            expected="model.thresholds to be set too",
            received="moving, with a model that forecasts values",
            hint="Set `model.thresholds`, for example to [0.1, 1, 5].",
        )
    if data.max_gap is not None:
        raise ConfigError(
            "data.frame",
            expected="fixed, for time steps of different length",
            received="moving",
            hint="Leave `data.max_gap` out, or set `data.frame` to fixed.",
        )


def _check_effect(config: Config) -> None:
    """Raise an error for an option that was changed, and that another option makes ineffective."""
    data, model, training = config.data, config.model, config.training
    if model.detail_frames != ModelConfig().detail_frames and not model.detail_channels:
        raise _without_effect("model.detail_frames", model.detail_frames, "model.detail_channels")
    if data.log_top != 1 and data.transform not in ("auto", "log"):
        raise _without_effect("data.log_top", data.log_top, "data.transform=log")
    if not model.thresholds:
        return
    for name in ("absolute_error", "emphasis"):
        value = getattr(training, name)
        if value != getattr(TrainingConfig(), name):
            raise ConfigError(
                f"training.{name}",
                expected="its default with model.thresholds, whose loss does not use it",
                received=value,
                hint=f"Leave `training.{name}` out, or leave `model.thresholds` out.",
            )


def _without_effect(name: str, value: object, other: str) -> ConfigError:
    return ConfigError(
        name,
        expected=f"{other}, without which it has no effect",
        received=value,
        hint=f"Set `{other}`, or leave `{name}` out.",
    )


def _first_wrong(error: ValidationError) -> ConfigError:
    """Return the error of the first wrong option, with all values that it accepts."""
    problems = error.errors()
    location = problems[0]["loc"][:2]  # further items are positions within the option's value
    name = ".".join(str(part) for part in location)
    received = BRIEF.repr(problems[0]["input"])
    if problems[0]["type"] == "extra_forbidden":
        close = get_close_matches(name, _option_names(), n=1, cutoff=0.8)
        hint = f"Use `{close[0]}`." if close else HINT
        return ConfigError(name, expected="the name of an option", received="an unknown name", hint=hint)
    if problems[0]["input"] is None and len(problems[0]["loc"]) > 2:
        # YAML reads {1:2} as the number 62 in base 60, without a value
        hint = "Write a space after each colon, as in {1: 2}."
        return ConfigError(name, expected="a value for each key", received="a key without a value", hint=hint)
    same_option = [problem for problem in problems if problem["loc"][:2] == location]
    messages = dict.fromkeys(problem["msg"].split(", unable")[0] for problem in same_option)
    expected = " or ".join(message.removeprefix("Input should be ") for message in messages)
    return ConfigError(name, expected=expected[0].lower() + expected[1:], received=received, hint=HINT)


def _option_names() -> list[str]:
    names = ["seed"]
    sections: dict[str, type[_Part]] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
    for section, kind in sections.items():
        names += [section, *(f"{section}.{option}" for option in kind.model_fields)]
    return names
