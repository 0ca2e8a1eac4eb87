"""Apply a trained model to physical values: transform, patches, durations, and inverse transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from convlstm.data import Frames, carry_forward, open_frames
from convlstm.data.in_memory import Time
from convlstm.data.places import Source
from convlstm.data.units import Field
from convlstm.errors import WeightsError
from convlstm.frontend.trainer import Optimisation, Sample, Trainer
from convlstm.nowcast.baselines import Extrapolation
from convlstm.nowcast.cells import moving_probability
from convlstm.nowcast.events import EventRules
from convlstm.nowcast.frameworks import build_trainer, set_threads
from convlstm.nowcast.lead_times import check_lead_times, lead_steps
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.motion import estimate_motion
from convlstm.nowcast.pipeline import Pipeline, pad_to_patches
from convlstm.nowcast.provenance import Provenance
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.checkpoint import Model, load_model


@dataclass(frozen=True)
class Nowcaster:
    """A trained model for forecasts, which stays in memory between them.

    Args:
        model: The content of its file.
        pipeline: Its data pipeline.
        trainer: The model in a framework.

    Example:
        >>> from convlstm.nowcast import Nowcaster
        >>> nowcaster = Nowcaster.load(threads=1)  # the model of radar rain in this package
        >>> rain = np.zeros((6, 32, 32), np.float32)  # (time, height, width), every 5 minutes
        >>> forecast = nowcaster.forecast(rain, units="mm/h", time_step=300, init_time="2018-05-20T12:00")
        >>> forecast["rainfall_rate_mean"].dims, forecast.sizes["lead_time"]
        (('lead_time', 'y', 'x'), 12)
    """

    model: Model
    pipeline: Pipeline
    trainer: Trainer

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        framework: str = "torch",
        threads: int | None = None,
        precision: str = "float32",
        device: str | None = None,
    ) -> Nowcaster:
        """Load a model file or run folder of `convlstm train`, or the model of radar rain in this package.

        Args:
            path: The model, which may be a folder of the Hugging Face Hub; None for the one in this package.
            framework: `torch`, `keras`, `flax` or `mlx`.
            threads: Number of CPU threads; None keeps the framework's.
            precision: Of the convolutions: float32, bfloat16 or auto.
            device: A device of PyTorch, such as cpu or cuda, or a platform of JAX; None takes the framework's choice.

        Returns:
            The model.

        Raises:
            WeightsError: if the file is no intact model of a forecaster.
            ConfigError: if the framework, the precision or the device does not exist.
            DependencyError: if the framework is not installed.

        Example:
            >>> Nowcaster.load(threads=1).pipeline.horizon
            12
        """
        return load_nowcaster(shipped_model() if path is None else path, framework, threads, precision, device)

    def forecast(
        self,
        frames: ArrayLike | xr.DataArray | xr.Dataset | Frames,
        *,
        units: str | Sequence[str] | None = None,
        time_step: float | None = None,
        init_time: Time | None = None,
        lead_times: Sequence[float] | None = None,
        max_age: float | None = None,
        members: int = 0,
        seed: int = 0,
        **reading: Any,
    ) -> xr.Dataset:
        """Forecast the frames after the latest one, or after `init_time`; the result is that of `convlstm forecast`.

        Args:
            frames: An array (time, height, width), or (time, channel, height, width) for several variables, NaN where
                missing. Or an object of xarray with times, or the result of `open_frames`.
            units: Unit of the values, or one for each variable; needed for an array. For an object of xarray it
                overrides the attribute.
            time_step: Seconds between the frames, needed for an array.
            init_time: Time of the last input frame in UTC, needed for an array, whose last frame it is. In an object
                of xarray it selects a frame; None takes the latest.
            lead_times: Increasing lead times in seconds; None takes those of the training.
            max_age: Refuse a last input frame that is more than this many seconds older than now.
            members: Number of ensemble members to add, for a model of rain with thresholds.
            seed: Seed of the members.
            **reading: Options of `open_frames`, such as `variables` and `rain`, for an object of xarray.

        Returns:
            The variables of the forecast file (lead_time, y, x), and further ones for a model with thresholds.

        Raises:
            DataError: if the frames differ from those of the training in unit, time step or grid spacing. Also if
                there are too few, a gap between them, or no value in the last one.
            ShapeError: if an array has other axes.
            ConfigError: if the model cannot forecast the lead times, or something needed for an array is missing.

        Example:
            >>> nowcaster = Nowcaster.load(threads=1)
            >>> rain = np.zeros((6, 32, 32), np.float32)
            >>> options = {"units": "mm/h", "time_step": 300, "init_time": "2018-05-20T12:00"}
            >>> forecast = nowcaster.forecast(rain, lead_times=[1800, 3600], members=2, **options)
            >>> [str(time)[11:16] for time in forecast["time"].values]
            ['12:30', '13:00']
        """
        from convlstm.nowcast.array_inputs import as_frames
        from convlstm.nowcast.cf_output import make_forecast  # which needs this module

        sequence, start = as_frames(
            self, frames, units=units, time_step=time_step, init_time=init_time, reading=reading
        )
        return make_forecast(
            self, sequence, lead_times=lead_times, init_time=start, max_age=max_age, members=members, seed=seed
        )

    def forecast_in_tiles(
        self,
        path: str | Path,
        frames: ArrayLike | xr.DataArray | xr.Dataset | Frames,
        *,
        tile: int,
        overlap: int | None = None,
        units: str | Sequence[str] | None = None,
        time_step: float | None = None,
        init_time: Time | None = None,
        lead_times: Sequence[float] | None = None,
        max_age: float | None = None,
        overwrite: bool = False,
        **reading: Any,
    ) -> xr.Dataset:
        """Write the forecast of a large grid as a Zarr store, tile by tile; `docs/large_domains.md` has the memory.

        After an interruption, the same call continues with the tiles that are not finished. The other arguments and
        errors are those of `forecast`.

        Args:
            path: The store, whose name ends in `.zarr`.
            frames: As in `forecast`.
            tile: Side of the tiles in cells, a multiple of the patch size.
            overlap: Cells around a tile that its forecast sees; None takes as many as its values depend on.
            units: As in `forecast`.
            time_step: As in `forecast`.
            init_time: As in `forecast`.
            lead_times: As in `forecast`.
            max_age: As in `forecast`.
            overwrite: Whether a store of another forecast is replaced.
            **reading: As in `forecast`.

        Returns:
            The store, whose values are read when they are used.

        Raises:
            OutputError: if the store cannot be written, or is that of another forecast.
            ConfigError: if the tiles do not fit the model.

        Example:
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> rain = np.zeros((6, 96, 64), np.float32)
            >>> options = {"units": "mm/h", "time_step": 300, "init_time": "2018-05-20T12:00"}
            >>> with TemporaryDirectory() as folder:
            ...     path = Path(folder) / "forecast.zarr"
            ...     store = Nowcaster.load(threads=1).forecast_in_tiles(path, rain, tile=64, **options)
            ...     print(store["rainfall_rate"].encoding["chunks"])
            (1, 64, 64)
        """
        from convlstm.nowcast.array_inputs import as_frames
        from convlstm.nowcast.tiled_forecast import forecast_in_tiles  # which needs this module

        sequence, start = as_frames(
            self, frames, units=units, time_step=time_step, init_time=init_time, reading=reading
        )
        return forecast_in_tiles(
            self,
            sequence,
            path,
            tile=tile,
            overlap=overlap,
            lead_times=lead_times,
            init_time=start,
            max_age=max_age,
            overwrite=overwrite,
        )

    @property
    def spec(self) -> ForecasterSpec:
        """The options of the forecaster."""
        assert isinstance(self.model.spec, ForecasterSpec)
        return self.model.spec

    def __reduce__(self) -> tuple[object, ...]:
        """Send the file's content to another process, which builds the model again."""
        return _rebuild, (self.model, self.pipeline, type(self.trainer), self.trainer.options)

    def set_threads(self, threads: int) -> None:
        """Set the number of CPU threads of the framework."""
        import_module(type(self.trainer).__module__).set_threads(threads)

    def open_frames(self, path: Source | xr.Dataset, **options: Any) -> Frames:
        """Read data with the reading options of the training, overridden by options of `open_frames`."""
        return open_frames(path, **(self.reading_options | options))

    @property
    def reading_options(self) -> dict[str, Any]:
        """The options of `open_frames` in the training, without those that were not set."""
        return Provenance.of_model(self.model).reading_options

    @property
    def rules(self) -> EventRules:
        """The numbers that turn probabilities into fields, for a model with thresholds."""
        return event_rules(self.model)

    def predict(self, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]) -> Field:
        """Return forecasts (batch, lead_time, channel, height, width) in the model's units; never negative for rain.

        The inputs are frames (batch, time, channel, height, width) in these units, NaN where missing, and their times
        (batch, time) in seconds. Lead times are seconds from the last input frame, increasing; a model without
        durations needs multiples of its time step. A model with thresholds forecasts one channel, the field that
        reaches each threshold where its event is forecast.
        """
        if self.spec.thresholds:
            probability = self.predict_probability(inputs, input_seconds, lead_seconds)
            return self.field(probability, lead_seconds)[:, :, None]
        values = carry_forward(self.pipeline.transform.forward(inputs))
        return self.physical(self.model_output(values, input_seconds, lead_seconds))

    def predict_probability(
        self, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]
    ) -> Field:
        """Return the probability of each event (batch, lead_time, threshold, height, width); inputs as in `predict`.

        Only for a model with thresholds. An event is a value of the first variable at or above a threshold.
        """
        assert self.spec.thresholds
        self._lead_steps(lead_seconds)  # raises an error for lead times that the model does not support
        if self.pipeline.frame == "moving":
            samples = zip(inputs, input_seconds, strict=True)
            motions = ((values, seconds, estimate_motion(values[:, 0], seconds)) for values, seconds in samples)
            return np.stack([moving_probability(self, *sample, lead_seconds) for sample in motions])
        values = carry_forward(self.pipeline.transform.forward(inputs))
        return expit(self.model_output(values, input_seconds, lead_seconds))

    def field(self, probability: Field, lead_seconds: NDArray[np.float64]) -> Field:
        """Return the field (..., lead_time, height, width) that reaches a threshold where its event is forecast.

        The probabilities are a result of `predict_probability` for these lead times.
        """
        return self.rules.field(probability, self.nearest_steps(lead_seconds))

    def predict_events(
        self, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]
    ) -> tuple[Field, Field]:
        """Return the probability (lead_time, threshold, height, width) and the mean (lead_time, height, width).

        The inputs are those of one sample: frames (time, channel, height, width) and times (time,), as in `predict`.
        Only for a model with thresholds.
        """
        flow = Extrapolation.of_inputs(inputs[:, 0], input_seconds)
        if self.pipeline.frame == "moving":
            self._lead_steps(lead_seconds)  # raises an error for lead times that the model does not support
            probability = moving_probability(self, inputs, input_seconds, flow.motion, lead_seconds)
        else:
            probability = self.predict_probability(inputs[None], input_seconds[None], lead_seconds)[0]
        moved = np.nan_to_num(flow.moved(lead_seconds, np.indices(inputs.shape[-2:]).astype(np.float64)))
        return probability, self.rules.mean(probability, moved, self.nearest_steps(lead_seconds))

    def check_lead_times(self, lead_seconds: NDArray[np.float64]) -> None:
        """Raise a `ConfigError` for lead times in seconds that the model cannot forecast."""
        self._lead_steps(lead_seconds)

    def steps_ahead(self, lead_seconds: NDArray[np.float64]) -> int:
        """Return the number of steps that the model takes to forecast the lead times."""
        steps = self._lead_steps(lead_seconds)
        return len(lead_seconds) if steps is None else int(steps[-1])

    def nearest_steps(self, lead_seconds: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return lead times in seconds as the nearest numbers of steps, from 1."""
        return np.maximum(np.rint(lead_seconds / self.pipeline.time_step).astype(np.intp), 1)

    def physical(self, output: Field) -> Field:
        """Return the output of a model without thresholds in its units; never negative for rain."""
        physical = self.pipeline.transform.inverse(output)
        return np.maximum(physical, 0) if self.pipeline.rain else physical

    def model_output(
        self, values: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]
    ) -> Field:
        """Return the model's output at the lead times for inputs in model values; shapes as in `predict`."""
        batch, _, channels, height, width = values.shape
        steps, horizon = self._lead_steps(lead_seconds), self.steps_ahead(lead_seconds)
        empty = np.zeros((batch, 0, channels, height, width), dtype=np.float32)
        sample = pad_to_patches(
            Sample(values, empty, empty, *self._durations(input_seconds, lead_seconds)), self.spec.patch_size
        )
        forecast = self.trainer.predict(sample, horizon)[..., :height, :width]
        return forecast if steps is None else forecast[:, steps - 1]

    def _lead_steps(self, lead_seconds: NDArray[np.float64]) -> NDArray[np.intp] | None:
        """Return lead times in steps, or None for a model that supports any lead time."""
        check_lead_times(lead_seconds)
        return None if self.spec.uses_durations else lead_steps(lead_seconds, self.pipeline.time_step)

    def _durations(
        self, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]
    ) -> tuple[Field | None, Field | None, Field | None]:
        """Return durations, lead durations and gaps, each None if the model does not use it."""
        if not self.spec.uses_durations:
            return None, None, None
        first = input_seconds[:, :1] - self.pipeline.time_step
        since = np.diff(input_seconds, axis=1, prepend=first).astype(np.float32)
        ahead = np.tile(np.diff(lead_seconds, prepend=0.0).astype(np.float32), (len(since), 1))
        return since, ahead, since if self.spec.encoder.memory_decay else None


def _rebuild(model: Model, pipeline: Pipeline, trainer: type[Trainer], options: Optimisation) -> Nowcaster:
    return Nowcaster(model, pipeline, trainer(model.spec, model.weights, options))  # type: ignore[arg-type, call-arg]


def event_rules(model: Model) -> EventRules:
    """Return the rules in a model file; before the end of a training, those with the cut 0.5."""
    assert isinstance(model.spec, ForecasterSpec)
    thresholds = model.spec.thresholds
    try:
        values = model.extra.get("events")
        if values is None:
            means = model.extra.get("class_means", (0.0, *thresholds))
            cuts = [(0.5,) * len(thresholds)]
            values = {"thresholds": thresholds, "cuts": cuts, "class_means": means, "class_lines": ()}
        rules = EventRules.from_dict(values)
        if rules.thresholds != thresholds:
            raise ValueError(f"the thresholds {rules.thresholds}, not {thresholds}")
        return rules
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            "events",
            expected="thresholds, cuts, class means and lines in the model file",
            received=f"{type(error).__name__}: {error}",
            hint="Use another copy of the file, or train the model again.",
        ) from error


def load_nowcaster(
    path: str | Path,
    framework: str = "torch",
    threads: int | None = None,
    precision: str = "float32",
    device: str | None = None,
) -> Nowcaster:
    """Load a model as `Nowcaster.load`; None keeps the framework's number of threads and device.

    The precision of the convolutions is float32, so that all frameworks and machines agree; bfloat16 or auto may be
    faster. In the sample, bfloat16 changes a probability by at most 0.012, and by 0.0001 on average.
    """
    model = load_model(path)  # before the framework, which takes seconds to import
    pipeline = Pipeline.of_model(model, path)
    set_threads(framework, threads)
    assert isinstance(model.spec, ForecasterSpec)
    trainer = build_trainer(framework, model.spec, model.weights, Optimisation(precision=precision, device=device))
    return Nowcaster(model, pipeline, trainer)
