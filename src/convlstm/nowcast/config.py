"""The configuration of a run: what is read, what is trained, and how; validated before any work."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from convlstm.errors import ConfigError
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.stack import ConvLSTMSpec

Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kernel = StrictInt | list[StrictInt | list[StrictInt]]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# YAML and TOML read 2018-05-20 as a date; days are text here, because some calendars have days that no date has
Day = Annotated[str, BeforeValidator(lambda day: day.isoformat() if isinstance(day, date) else day)]

# a file can repeat a list within lists without end, so what is shown of a wrong value is bounded
BRIEF = reprlib.Repr()
BRIEF.maxlevel, BRIEF.maxlist, BRIEF.maxdict = 2, 4, 4

HINT = "`convlstm train --show-config` prints every option with its default."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Part):
    """What is read, and how it is cut.

    Example:
        >>> DataConfig().input_length
        6
    """

    variables: list[str] = Field([], description="Variables, one per channel; empty takes the only gridded one.")
    units: str | None = Field(None, description="Unit of the file's values, where the file does not say.")
    time_step: Positive | None = Field(None, description="Seconds from frame to frame, where the file does not say.")
    time_dim: str | None = Field(None, description="Name of the time dimension, where it cannot be found.")
    y_dim: str | None = Field(None, description="Name of the y dimension, where it cannot be found.")
    x_dim: str | None = Field(None, description="Name of the x dimension, where it cannot be found.")
    transform: Literal["auto", "log", "dbz", "standard", "identity"] = Field(
        "auto", description="To model units: auto, log, dbz, standard or identity; auto is log for rain, else standard."
    )
    input_length: Count = Field(6, description="Frames the model is given.")
    horizon: Count = Field(12, description="Frames it is trained to foretell; any number can be forecast later.")
    max_gap: Positive | None = Field(None, description="Largest gap in seconds within a window; null wants even steps.")
    validation: Natural | list[Day] = Field(1, description="Days to validate on: how many, or their dates.")
    test: Natural | list[Day] = Field(1, description="Days kept for evaluation: how many, or their dates.")
    crop: Count | None = Field(96, description="Side in cells of the squares trained on; null takes the whole grid.")


class ModelConfig(_Part):
    """The forecaster.

    Example:
        >>> ModelConfig().spec(frame_channels=1).patch_channels
        16
    """

    hidden_channels: list[Count] = Field([48, 48], min_length=1, description="Width of each layer.")
    kernel_size: Kernel = Field(
        3, description="Input kernel: one number, or a list per layer of numbers or [height, width]."
    )
    recurrent_kernel_size: Kernel | None = Field(None, description="Recurrent kernel; null repeats the other.")
    patch_size: Count = Field(4, description="Side of the patches folded into channels.")
    peephole: Literal["none", "channel"] = Field("none", description="Peephole connections: none or channel.")
    norm: Literal["none", "layer"] = Field("none", description="Normalisation of the gates: none or layer.")
    dropout: Share = Field(0.0, description="Dropout between layers.")
    recurrent_dropout: Share = Field(0.0, description="Dropout on the recurrent input.")
    rollout: Literal["states", "feedback"] = Field(
        "states", description="states (encoder–forecaster) or feedback (own frames fed back)."
    )
    residual: bool = Field(True, description="Whether the last frame is added to the output.")
    output_activation: Literal["identity", "sigmoid", "relu", "softplus"] = Field(
        "identity", description="Of the output in model units: identity, sigmoid, relu or softplus."
    )
    duration_strategy: Literal["none", "linear", "log", "log1p", "scalar", "exp", "mlp"] = Field(
        "none", description="How uneven steps scale the update: none, linear, log, log1p, scalar, exp or mlp."
    )
    memory_decay: bool = Field(False, description="Whether the cell state fades over gaps.")

    def spec(self, frame_channels: int, reference_duration: float = 1.0) -> ForecasterSpec:
        """Return the forecaster for frames of so many channels; durations count in units of the usual step."""
        aware = self.duration_strategy != "none" or self.memory_decay
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
            reference_duration=reference_duration if aware else 1.0,
            memory_decay=self.memory_decay,
        )
        return ForecasterSpec(
            encoder=stack,
            frame_channels=frame_channels,
            patch_size=self.patch_size,
            rollout=self.rollout,
            residual=self.residual,
            output_activation=self.output_activation,
        )


class TrainingConfig(_Part):
    """How it is trained.

    Example:
        >>> TrainingConfig().batch_size
        8
    """

    steps: Count = Field(2000, description="Optimiser steps.")
    batch_size: Count = Field(8, description="Windows per step.")
    learning_rate: Positive = Field(2e-3, description="Peak learning rate of AdamW.")
    warmup_steps: Natural = Field(50, description="Steps of linear warm-up before the cosine.")
    weight_decay: Share = Field(0.01, description="Of convolution kernels.")
    clip_norm: Positive = Field(1.0, description="Largest norm of the gradient.")
    absolute_error: Share = Field(0.3, description="Share of the absolute beside the squared error.")
    emphasis: dict[float, Share] = Field(
        {1.0: 1.0, 5.0: 2.0}, description="Extra weight of targets from a rain rate (mm/h) on; rain only."
    )
    augment: bool | Literal["auto"] = Field(
        "auto", description="Whether windows are flipped and turned; auto does so for rain, which has no direction."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the convolutions: auto, float32 or bfloat16."
    )
    validate_every: Count = Field(100, description="Steps between validations, each of which saves the run.")
    validation_windows: Count = Field(32, description="Windows validated on, spread over the validation days.")
    patience: Count = Field(10, description="Validations without progress before training stops.")


class Config(_Part):
    """A whole run.

    Example:
        >>> Config.model_validate({"training": {"steps": 10}}).training.steps
        10
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    seed: Natural = Field(0, description="Seed of weights, batches and dropout.")


def validate(values: Mapping[str, Any]) -> Config:
    """Return the configuration of plain values, or one clear line about the first that is wrong.

    Args:
        values: Options by section, as a file holds them.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: naming the option, what it wants and what it got.
        SpecError: if the model cannot be built.

    Example:
        >>> validate({"training": {"step": 500}})
        Traceback (most recent call last):
            ...
        convlstm.errors.ConfigError: training.step: expected a known option, got 500; perhaps training.steps is meant.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise _first_wrong(error) from error
    config.model.spec(frame_channels=1)
    data, model = config.data, config.model
    if data.crop is not None and data.crop % model.patch_size:
        raise ConfigError(
            "data.crop",
            expected=f"a multiple of model.patch_size, which is {model.patch_size}",
            received=data.crop,
            hint="change one of the two.",
        )
    if data.max_gap is not None and model.duration_strategy == "none":
        raise ConfigError(
            "data.max_gap",
            expected="a model that is told how long each step lasts",
            received="model.duration_strategy=none",
            hint="choose a strategy, such as mlp, or leave data.max_gap out.",
        )
    if data.max_gap is None and (model.duration_strategy != "none" or model.memory_decay):
        raise ConfigError(
            "model.duration_strategy" if model.duration_strategy != "none" else "model.memory_decay",
            expected="data.max_gap beside it",
            received="even steps only, on which it has no effect",
            hint="set data.max_gap to the largest gap in seconds, or leave it out.",
        )
    return config


def _first_wrong(error: ValidationError) -> ConfigError:
    """Return one line on the first option that is wrong, with everything that it could have been."""
    problems = error.errors()
    place = problems[0]["loc"][:2]  # what follows are places within the option's value
    name = ".".join(str(part) for part in place)
    received = BRIEF.repr(problems[0]["input"])
    if problems[0]["type"] == "extra_forbidden":
        close = get_close_matches(name, _option_names(), n=1)
        hint = f"perhaps {close[0]} is meant." if close else HINT
        return ConfigError(name, expected="a known option", received=received, hint=hint)
    wanted = dict.fromkeys(problem["msg"].split(", unable")[0] for problem in problems if problem["loc"][:2] == place)
    expected = " or ".join(text.removeprefix("Input should be ") for text in wanted)
    return ConfigError(name, expected=expected[0].lower() + expected[1:], received=received, hint=HINT)


def _option_names() -> list[str]:
    parts: dict[str, type[_Part]] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
    return ["seed", *parts, *(f"{section}.{option}" for section, part in parts.items() for option in part.model_fields)]
