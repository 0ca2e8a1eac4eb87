"""The data pipeline of a model, saved with its weights: variables, unit, transform and time step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data import RAIN_RATE, Frames, Identity, LogRain, Reflectivity, Standard, Transform, transform_from_dict
from convlstm.errors import ConvLSTMError, DataError, WeightsError
from convlstm.frontend.trainer import Sample
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.checkpoint import Model

Field = NDArray[np.float32]

_FIT_FRAMES = 200
_TIME_TOLERANCE = 0.01


@dataclass(frozen=True)
class Pipeline:
    """The conversion between physical values and model values, and the data of the training.

    Args:
        variables: Variables of the training, one per channel.
        units: Their unit.
        transform: Transform from physical to model values.
        time_step: Usual time between frames in seconds.
        max_gap: Maximum time between frames in training, in seconds; None for constant time steps.
        input_length: Number of input frames.
        horizon: Number of forecast frames in training.
        thresholds: Thresholds of the scores, in `units`.
        days: Days of the training data by split, as dates.
    """

    variables: tuple[str, ...]
    units: str
    transform: Transform
    time_step: float
    max_gap: float | None
    input_length: int
    horizon: int
    thresholds: tuple[float, ...]
    days: dict[str, list[str]]

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
        """Return the pipeline in a model file.

        Args:
            model: The content of the file.
            path: Its name, for the message.

        Returns:
            The pipeline.

        Raises:
            WeightsError: if the file is not a forecaster of `convlstm train`.
        """
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
            values |= {"variables": tuple(values["variables"]), "thresholds": tuple(values["thresholds"])}
            return cls(**values)
        except (KeyError, TypeError, ValueError, ConvLSTMError) as error:
            raise WeightsError(
                str(path),
                expected=expected,
                received="a forecaster without its data pipeline",
                hint="Train one with `convlstm train`.",
            ) from error

    def check(self, frames: Frames) -> None:
        """Raise an error for data that does not fit the model.

        Args:
            frames: The sequence to forecast or to evaluate on.

        Raises:
            DataError: naming the difference in channels, unit or time step.
        """
        wants = (
            ("variables", len(self.variables), len(frames.variables)),
            ("units", self.units, frames.units),
        )
        for name, expected, received in wants:
            if expected != received:
                raise DataError(
                    name,
                    expected=f"{expected}, as in the training",
                    received=received,
                    hint="Pass data like those of the training, or train a model on this data.",
                )
        if abs(frames.time_step - self.time_step) > _TIME_TOLERANCE * self.time_step:
            raise DataError(
                "time step",
                expected=f"{self.time_step:g} s, as in the training",
                received=f"{frames.time_step:g} s",
                hint="Pass data with this time step, or train a model on this data.",
            )


def choose_transform(name: str, frames: Frames, train: NDArray[np.bool_]) -> Transform:
    """Return the transform of a name, fitted to the training frames if it has parameters.

    Args:
        name: auto, log, dbz, standard or identity.
        frames: The sequence.
        train: Frames of the training split (time,).

    Returns:
        The transform; auto is log for rain and standard for everything else.

    Raises:
        DataError: for a rain transform of values that are not a rain rate.
    """
    rain = frames.units == RAIN_RATE
    name = ("log" if rain else "standard") if name == "auto" else name
    if name in ("log", "dbz") and not rain:
        raise DataError(
            "transform",
            expected=f"'{name}' for rain rates in mm/h only",
            received=frames.units,
            hint="Set `data.transform` to standard.",
        )
    if name == "standard":
        return Standard.fit(_spread(frames, train))
    by_name: dict[str, type[Transform]] = {"log": LogRain, "dbz": Reflectivity, "identity": Identity}
    return by_name[name]()


def choose_thresholds(frames: Frames, train: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return the thresholds of the scores: 0.1, 1 and 5 mm/h for rain, else the 50th, 90th and 99th percentile."""
    if frames.units == RAIN_RATE:
        return (0.1, 1.0, 5.0)
    values = _spread(frames, train)
    found = np.nanquantile(values[:, 0], [0.5, 0.9, 0.99])
    return tuple(dict.fromkeys(float(f"{value:.4g}") for value in found))


def emphasis(targets: Field, transform: Transform, levels: dict[float, float]) -> Field:
    """Return the weight of each target value: 1, plus the extra weight of each level at or below its rain rate.

    Args:
        targets: Transformed values.
        transform: The transform of the values, which is increasing.
        levels: Extra weight by rain rate (mm/h).

    Returns:
        Weights, shape of the targets.
    """
    weight = np.ones_like(targets)
    for rate, extra in levels.items():
        weight += np.float32(extra) * (targets >= transform.forward(np.float32(rate)))
    return weight


def pad_to_patches(sample: Sample, patch: int) -> Sample:
    """Return the sample padded to a multiple of the patch size: edges are repeated, with weight 0.

    Args:
        sample: A sample on any grid.
        patch: Side of the model's patches.

    Returns:
        The padded sample; the same object if its grid fits.
    """
    height, width = sample.inputs.shape[-2:]
    extra = (-height % patch, -width % patch)
    if not any(extra):
        return sample
    around = [(0, 0)] * 3 + [(0, n) for n in extra]
    return Sample(
        np.pad(sample.inputs, around, mode="edge"),
        np.pad(sample.targets, around),
        np.pad(sample.weight, around),
        sample.durations,
        sample.lead_durations,
        sample.gaps,
    )


def _spread(frames: Frames, train: NDArray[np.bool_]) -> Field:
    """Read up to 200 frames spread over the training split."""
    index = np.flatnonzero(train)
    values = frames.read(index[np.linspace(0, len(index) - 1, min(len(index), _FIT_FRAMES)).astype(int)])
    for name, channel in zip(frames.variables, np.moveaxis(values, 1, 0), strict=True):
        if not np.isfinite(channel).any():
            raise DataError(
                name,
                expected="known values on the training days",
                received="missing values only",
                hint="Choose other days with `data.validation` and `data.test`, or other data.",
            )
    return values
