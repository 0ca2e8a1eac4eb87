"""The data pipeline of a model, saved with its weights: variables, unit, transform and time step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, FiniteFloat, TypeAdapter

from convlstm.data import (
    RAIN_RATE,
    REFLECTIVITY,
    Frames,
    Identity,
    LogRain,
    Reflectivity,
    Standard,
    Transform,
    mm_per_hour_to_dbz,
    transform_from_dict,
)
from convlstm.data.frames import in_parts
from convlstm.data.spacing import grid_spacing
from convlstm.data.units import Field
from convlstm.data.windows import STEP_TOLERANCE
from convlstm.errors import ConfigError, ConvLSTMError, DataError, WeightsError
from convlstm.frontend.trainer import Sample
from convlstm.nowcast.config import Positive, Steps
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.checkpoint import Model

RAIN_THRESHOLDS = (0.1, 1.0, 5.0)
"""Thresholds of the scores of rain in mm/h."""

_FIT_FRAMES = 200
_MOST_VALUES = 2**25  # from which percentiles are computed
_SPACING_TOLERANCE = 1.5
"""Largest ratio of the grid spacings of forecast and training."""


@dataclass(frozen=True)
class Pipeline:
    """The conversion between physical values and model values, and the data of the training."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    variables: tuple[str, ...]  # one per channel
    units: str
    transform: Transform
    time_step: Positive  # usual time between frames in seconds
    max_gap: Positive | None  # maximum time between frames in seconds; None for constant time steps
    input_length: Steps  # number of input frames
    horizon: Steps  # number of forecast frames in training
    thresholds: tuple[FiniteFloat, ...]  # of the scores, in `units`
    days: dict[str, list[str]]  # by split, as dates; `earlier` are those of the model that the training started from
    frame: Literal["fixed", "moving"] = "fixed"  # or the model forecasts in the frame that moves with the rain
    grid_spacing: Positive | None = None  # distance between cells in metres, if the data tell it

    @property
    def channels(self) -> int:
        """Channels of an input frame: the variables, and in the moving frame one that says where they are known."""
        return len(self.variables) + (self.frame == "moving")

    @property
    def seen_days(self) -> list[str]:
        """The days on which the model was trained or validated."""
        return sorted({day for split in ("train", "validation", "earlier") for day in self.days.get(split, [])})

    @property
    def rain(self) -> bool:
        """Whether the values are rain rates in mm/h."""
        return self.units == RAIN_RATE

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        plain = asdict(self) | {"transform": self.transform.to_dict()}
        return plain | {"variables": list(self.variables), "thresholds": list(self.thresholds)}

    @classmethod
    def of_model(cls, model: Model, path: object) -> Pipeline:
        """Return the pipeline in a model file, whose path is for the message."""
        expected = "a forecaster written by `convlstm train`"
        if not isinstance(model.spec, ForecasterSpec):
            raise WeightsError(
                str(path),
                expected=expected,
                received="a layer",
                hint="Load the layer in Python with `convlstm.torch.load`.",
            )
        try:
            values = dict(model.extra["pipeline"])
            values["transform"] = transform_from_dict(values["transform"])
            pipeline = TypeAdapter(cls).validate_python(values)
        except (AttributeError, KeyError, TypeError, ValueError, ConvLSTMError) as error:
            raise WeightsError(
                str(path),
                expected=expected,
                received="a forecaster without its data pipeline",
                hint="Train one with `convlstm train`.",
            ) from error
        if not pipeline._fits(model.spec):
            raise WeightsError(
                str(path),
                expected=expected,
                received="a forecaster with the data pipeline of another one",
                hint="Train one with `convlstm train`.",
            )
        return pipeline

    def _fits(self, spec: ForecasterSpec) -> bool:
        """Return whether a forecaster takes the frames of this pipeline."""
        per_channel = np.size(self.transform.mean) if isinstance(self.transform, Standard) else 1
        is_fixed = self.frame == "fixed" or bool(spec.thresholds)
        return is_fixed and self.channels == spec.frame_channels and per_channel in (1, len(self.variables))

    def check(self, frames: Frames) -> None:
        """Raise an error for data that differs from the training in channels, unit, time step or grid spacing."""
        for name, expected, received in (
            ("variables", len(self.variables), len(frames.variables)),
            ("units", self.units, frames.units),
        ):
            if expected != received:
                raise DataError(
                    name,
                    expected=f"{expected}, as in the training",
                    received=received,
                    hint="Pass data like those of the training, or train a model on this data.",
                )
        if abs(frames.time_step - self.time_step) > STEP_TOLERANCE * self.time_step:
            raise DataError(
                "time step",
                expected=f"{self.time_step:g} s, as in the training",
                received=f"{frames.time_step:g} s",
                hint="Pass data with this time step, or train a model on this data.",
            )
        spacing = grid_spacing(frames.grid, frames.y_dim, frames.x_dim)
        if self.grid_spacing is None or spacing is None:
            return
        if abs(np.log(spacing / self.grid_spacing)) > np.log(_SPACING_TOLERANCE):
            raise DataError(
                "grid spacing",
                expected=f"about {self.grid_spacing / 1000:.3g} km, as in the training",
                received=f"{spacing / 1000:.3g} km",
                hint="Pass data on such a grid, or train a model on this data with `convlstm train`.",
            )


def choose_transform(name: str, frames: Frames, train: NDArray[np.bool_], log_top: float = 1.0) -> Transform:
    """Return the transform of a name, fitted to the training frames (mask over time) if it has parameters.

    `auto` is log for rain and standard for everything else.
    """
    rain = frames.units == RAIN_RATE
    if name == "auto":
        name = "log" if rain else "standard"
    if name in ("log", "dbz") and not rain:
        raise DataError(
            "transform",
            expected=f"'{name}' for rain rates in mm/h only",
            received=frames.units,
            hint="Pass `--rain` to convert it to mm/h, or set `data.transform` to standard."
            if frames.units == REFLECTIVITY
            else "Set `data.transform` to standard.",
        )
    if name == "standard":
        return Standard.fit_parts(TrainingSample.of_days(frames, train).parts())
    if name == "log":
        return LogRain(top=log_top)
    by_name: dict[str, type[Transform]] = {"dbz": Reflectivity, "identity": Identity}
    return by_name[name]()


def check_events(thresholds: Sequence[float], transform: Transform) -> None:
    """Raise an error for a threshold outside the range of the transform, where it would be another event."""
    values = np.asarray(thresholds, np.float32)[:, None, None, None]
    back = transform.inverse(transform.forward(values))[:, 0].ravel()
    for threshold, received in zip(thresholds, back, strict=True):
        is_always_true = threshold <= 0 and isinstance(transform, LogRain | Reflectivity)
        if is_always_true or not np.isclose(threshold, received, rtol=1e-3, atol=0):
            raise ConfigError(
                "model.thresholds",
                expected=f"values within the range of the transform {transform.name!r}, above 0 for rain",
                received=f"{threshold:g}",
                hint="Choose other thresholds, or another `data.transform`.",
            )


def choose_thresholds(frames: Frames, train: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return the thresholds of the scores: 0.1, 1 and 5 mm/h, the same in dBZ, or for others three percentiles.

    The percentiles are the 50th, 90th and 99th; those at the minimum, which every value reaches, are left out.
    """
    if frames.units == RAIN_RATE:
        return RAIN_THRESHOLDS
    if frames.units == REFLECTIVITY:
        return tuple(round(float(value), 1) for value in mm_per_hour_to_dbz(RAIN_THRESHOLDS))
    values = TrainingSample.of_days(frames, train).values()
    quantiles = [float(f"{value:.4g}") for value in np.nanquantile(values, [0.5, 0.9, 0.99])]
    above_minimum = [value for value in quantiles if value > np.nanmin(values)]
    return tuple(dict.fromkeys(above_minimum or quantiles))


def events(
    targets: Field,
    weight: Field,
    transform: Transform,
    thresholds: Sequence[float],
    *,
    threshold_weights: Sequence[float] = (),
    first_lead_weight: float = 1.0,
) -> tuple[Field, Field]:
    """Return the events of transformed targets, 1 where a threshold is reached, and the weight of each in the loss.

    Targets and weight are (batch, lead_time, channel, height, width), of which the first channel is used. The results
    are (batch, lead_time, threshold, height, width). The weight of the first lead time decreases to 1 at the fifth.
    """
    # one row per threshold and one column per variable, since a transform may have numbers for each variable
    columns = np.broadcast_to(np.asarray(thresholds, np.float32)[:, None], (len(thresholds), targets.shape[2]))
    limits = transform.forward(columns[:, :, None, None])[:, 0]
    happened = (targets[:, :, :1] >= limits).astype(np.float32)
    by_threshold = np.asarray(threshold_weights or [1.0] * len(thresholds), np.float32).reshape(-1, 1, 1)
    lead = np.arange(targets.shape[1], dtype=np.float32)
    by_lead = np.power(np.float32(first_lead_weight), np.clip(1 - lead / 4, 0, 1), dtype=np.float32)
    return happened, weight[:, :, :1] * by_threshold * by_lead.reshape(-1, 1, 1, 1)


def emphasis(targets: Field, transform: Transform, levels: dict[float, float]) -> Field:
    """Return the weight of each target value: 1, plus the extra weight of each level at or below its rain rate.

    The targets are transformed, by an increasing transform; the levels are extra weights by rain rate in mm/h.
    """
    weight = np.ones_like(targets)
    for rate, extra in levels.items():
        weight += np.float32(extra) * (targets >= transform.forward(np.float32(rate)))
    return weight


def pad_to_patches(sample: Sample, patch: int) -> Sample:
    """Return the sample padded to a multiple of the patch size: edges are repeated, with weight 0."""
    height, width = sample.inputs.shape[-2:]
    extra = (-height % patch, -width % patch)
    if not any(extra):
        return sample
    padding = [(0, 0)] * 3 + [(0, n) for n in extra]
    return Sample(
        np.pad(sample.inputs, padding, mode="edge"),
        np.pad(sample.targets, padding),
        np.pad(sample.weight, padding),
        sample.durations,
        sample.lead_durations,
        sample.gaps,
    )


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """Up to 200 frames spread over the training days, read in parts."""

    frames: Frames
    index: NDArray[np.intp]

    @classmethod
    def of_days(cls, frames: Frames, train: NDArray[np.bool_]) -> TrainingSample:
        """Return the sample of the training frames (mask over time), in which each variable has a value."""
        index = np.flatnonzero(train)
        chosen = index[np.linspace(0, len(index) - 1, min(len(index), _FIT_FRAMES)).astype(int)]
        sample = cls(frames, chosen)
        sample.check()
        return sample

    def check(self) -> None:
        """Raise an error for a variable without any value."""
        known = np.zeros(len(self.frames.variables), bool)
        for values in self.parts():
            known |= np.isfinite(values).any(axis=(0, 2, 3))
            if known.all():
                return
        raise DataError(
            self.frames.variables[int(np.argmin(known))],
            expected="known values on the training days",
            received="missing values only",
            hint="Choose other days with `data.validation` and `data.test`, or other data.",
        )

    def parts(self) -> Iterator[Field]:
        """Yield frames (time, channel, height, width), to be read one part after another."""
        for part in in_parts(self.index, math.prod(self.frames.shape[1:])):
            yield self.frames.read(part)

    def first_variable(self) -> Iterator[Field]:
        """Yield the frames of the first variable (time, height, width)."""
        for values in self.parts():
            yield values[:, 0]

    def values(self) -> Field:
        """Return values of the first variable, at regular distances if there are too many."""
        step = -(-len(self.index) * math.prod(self.frames.shape[2:]) // _MOST_VALUES)
        return np.concatenate([part.ravel()[::step] for part in self.first_variable()])
