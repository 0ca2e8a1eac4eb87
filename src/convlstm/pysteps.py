"""The model as a nowcasting method of pysteps: its call, its units and its shapes.

`forecast` needs no part of pysteps. `register` adds it to the methods of an installed pysteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.data import RAIN_RATE, Frames, open_frames
from convlstm.data.checks import require_positive
from convlstm.data.in_memory import dataset_of_array
from convlstm.errors import ConfigError, DataError, DependencyError, ShapeError, install
from convlstm.nowcast.config import MOST_STEPS
from convlstm.nowcast.motion import advect, estimate_motion, frames_with_data
from convlstm.nowcast.nowcaster import Nowcaster

_FEWEST_FRAMES = 2  # which show the motion
_TIME = "2000-01-01T00:00"  # of the last frame: the forecast depends on differences of times only


def forecast(
    precip: ArrayLike,
    velocity: ArrayLike | None,
    timesteps: int | Sequence[float],
    *,
    timestep: float | None = None,
    n_ens_members: int | None = None,
    kmperpixel: float | None = None,
    seed: int | None = None,
    num_workers: int | None = None,
    model: Nowcaster | str | Path | None = None,
) -> NDArray[np.float32]:
    """Forecast rain as the nowcasting methods of pysteps do, with `convlstm.nowcast.Nowcaster`.

    The model needs `input_length` frames, 6 for the one in this package. Of more, the last ones are used. If there are
    fewer, or the first ones have no value, the first one with a value is moved back along the motion.

    The velocity has no effect. The model moves with the motion that it estimates from its frames, as in its training
    and in its scores.

    Args:
        precip: Rain rates in mm/h (time, height, width), oldest first, NaN where missing. Not in dBR.
        velocity: Motion (2, height, width) in cells per step, or None; only its shape is checked.
        timesteps: Number of lead times, or a list of increasing lead times in steps.
        timestep: Minutes between the frames, which must be those of the model: 5 for the one in this package.
        n_ens_members: Number of members, at least 2; None forecasts one field.
        kmperpixel: Size of a cell in km, which must be about that of the model. None does not check it.
        seed: Seed of the members, and of nothing else; None takes another one in each call.
        num_workers: Number of CPU threads; None takes the framework's choice. Only for a model that is loaded here.
        model: A model in memory, a model file or a run folder; None for the model of radar rain in this package. In a
            loop pass a `Nowcaster`, which is not loaded again.

    Returns:
        Rain rates in mm/h (timesteps, height, width), or (n_ens_members, timesteps, height, width). A cell without a
        value in any input frame is NaN. The single field reaches each threshold where its event is forecast.

    Raises:
        ShapeError: if `precip` or `velocity` has another shape, or there are too few frames.
        DataError: if a value of `precip` is negative, or the last frame has none. Also if time step or cell size
            differ from those of the training.
        ConfigError: if a number is not allowed, or the model is not for rain or cannot make members.

    Example:
        >>> rain = np.zeros((6, 32, 32))  # every 5 minutes
        >>> forecast(rain, None, 3, timestep=5, num_workers=1).shape
        (3, 32, 32)
    """
    nowcaster = _load(model, num_workers)
    frames = _frames(precip, velocity, timestep, kmperpixel, nowcaster)
    steps = _steps(timesteps, nowcaster)
    if n_ens_members is not None and n_ens_members < 2:
        raise ConfigError(
            "n_ens_members", expected="None, or at least 2", received=n_ens_members, hint="Pass 24, or leave it out."
        )
    if seed is not None and n_ens_members is None:
        raise ConfigError("seed", expected="None without members", received=seed, hint="Pass `n_ens_members` too.")
    result = nowcaster.forecast(
        frames,
        lead_times=[step * nowcaster.pipeline.time_step for step in steps],
        members=n_ens_members or 0,
        seed=int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed,
    )
    name = nowcaster.pipeline.variables[0]
    values: NDArray[np.float32] = result[name if n_ens_members is None else f"{name}_member"].values
    return values


def register(name: str = "convlstm", **options: Any) -> None:
    """Add `forecast` to the methods that `pysteps.nowcasts.get_method` returns.

    pysteps does not discover nowcasting methods of other packages, so call this once in each process.

    Args:
        name: Name of the method, in lower case.
        **options: Options of `forecast` that the method has if a call does not pass them, such as `timestep=5` and
            `model=`.

    Raises:
        DependencyError: if pysteps is not installed, or its table of methods is not where version 1.21 has it.
        ConfigError: if the name is not in lower case, or another method has it.

    Example:
        `register(timestep=5)`, and then `pysteps.nowcasts.get_method("convlstm")(rain, velocity, 12)`.
    """
    methods = _methods()
    if name != name.lower():
        raise ConfigError("name", expected="a name in lower case", received=repr(name), hint=f"Pass {name.lower()!r}.")
    present = methods.get(name)
    if present is not None and getattr(present, "func", None) is not forecast:
        raise ConfigError(
            "name", expected="a new name", received=f"{name!r}, a method of pysteps", hint="Choose another name."
        )
    methods[name] = partial(forecast, **options)


def _methods() -> dict[str, Any]:
    """Return the table of nowcasting methods of pysteps."""
    try:
        from pysteps.nowcasts import interface

        methods: dict[str, Any] = interface._nowcast_methods
    except (ImportError, AttributeError) as error:
        raise DependencyError(
            "pysteps",
            expected="pysteps 1.21 or a version with the same table of methods",
            received=str(error),
            hint=f"Run: {install('pysteps')}. Or call `convlstm.pysteps.forecast`, which does not need it.",
        ) from error
    return methods


def _load(model: Nowcaster | str | Path | None, threads: int | None) -> Nowcaster:
    """Return the model, checked to be one of rain."""
    if not isinstance(model, Nowcaster):
        nowcaster = Nowcaster.load(model, threads=threads)
    elif threads is not None:
        raise ConfigError(
            "num_workers",
            expected="None with a model in memory",
            received=threads,
            hint="Pass `threads` to `Nowcaster.load`.",
        )
    else:
        nowcaster = model
    if not nowcaster.pipeline.rain:
        raise ConfigError(
            "model",
            expected="a model of rain rates",
            received=f"a model for {nowcaster.pipeline.units}",
            hint="Call `Nowcaster.forecast`, which takes other quantities.",
        )
    if len(nowcaster.pipeline.variables) > 1:
        raise ConfigError(
            "model",
            expected="a model of one variable",
            received=f"a model of {', '.join(nowcaster.pipeline.variables)}",
            hint="Call `Nowcaster.forecast`, which takes further variables.",
        )
    return nowcaster


def _frames(
    precip: ArrayLike,
    velocity: ArrayLike | None,
    timestep: float | None,
    kmperpixel: float | None,
    nowcaster: Nowcaster,
) -> Frames:
    """Return the input as a sequence of at least as many frames as the model needs."""
    rain = _rain_rates(precip, nowcaster.pipeline.input_length)
    if velocity is not None and np.shape(velocity) != (2, *rain.shape[1:]):
        raise ShapeError(
            "velocity",
            expected=f"shape {(2, *rain.shape[1:])}",
            received=f"shape {np.shape(velocity)}",
            hint="Pass the motion of these frames, or None.",
        )
    if timestep is None:
        raise ConfigError(
            "timestep",
            expected="the minutes between the frames",
            received="None",
            hint=f"Pass `timestep={nowcaster.pipeline.time_step / 60:g}` for frames with the time step of the model.",
        )
    require_positive("timestep", timestep)
    variables, seconds = nowcaster.pipeline.variables, 60.0 * timestep
    dataset = dataset_of_array(rain, variables, time_step=seconds, last_time=_TIME)
    if kmperpixel is not None:
        require_positive("kmperpixel", kmperpixel)
        for dim in ("y", "x"):
            cells = kmperpixel * np.arange(dataset.sizes[dim])
            dataset = dataset.assign_coords({dim: (dim, cells, {"units": "km"})})
    return open_frames(dataset, variables=variables, units=RAIN_RATE, time_step=seconds, rain=True)


def _rain_rates(precip: ArrayLike, length: int) -> NDArray[np.float32]:
    """Return the frames (time, height, width), checked, with earlier ones in front up to `length`."""
    values = np.ma.filled(np.ma.asarray(precip, dtype=np.float32), np.nan)
    if values.ndim != 3 or 0 in values.shape:
        raise ShapeError(
            "precip",
            expected="shape (time, height, width)",
            received=f"shape {values.shape}",
            hint="Pass frames in this form.",
        )
    if len(values) < _FEWEST_FRAMES:
        raise ShapeError(
            "precip",
            expected=f"{length} frames, at least {_FEWEST_FRAMES}",
            received=len(values),
            hint="Pass more frames.",
        )
    lowest = np.nanmin(values, initial=0.0)
    if lowest < 0:
        raise DataError(
            "precip",
            expected="rain rates in mm/h, at least 0",
            received=f"a minimum of {lowest:g}",
            hint="Convert dBR and dBZ with `pysteps.utils.conversion.to_rainrate`, and set missing values to NaN.",
        )
    seen = frames_with_data(values)
    if len(values) - 1 not in seen:
        raise DataError(
            "precip",
            expected="a value in the last frame",
            received="missing values only",
            hint="Pass the frames up to the last one with values.",
        )
    recent = seen[seen >= len(values) - length]
    if len(recent) < _FEWEST_FRAMES:
        raise DataError(
            "precip",
            expected=f"values in {_FEWEST_FRAMES} of the last {length} frames, which show the motion",
            received=f"values in {len(recent)}",
            hint="Pass frames with values.",
        )
    known = values[recent[0] :]
    return _with_earlier(known, length - len(known)) if len(known) < length else known


def _with_earlier(rain: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return frames with `count` more in front: the first one, moved back along the motion.

    A model that is not in the moving frame would read missing frames in their place as frames without rain.
    """
    motion = estimate_motion(rain, np.arange(len(rain), dtype=np.float64))
    earlier = advect(rain[0], -motion, np.arange(1.0, count + 1))[::-1]
    earlier[:, ~np.isfinite(rain[0])] = np.nan  # what was never seen stays missing
    return np.concatenate([earlier, rain])


def _steps(timesteps: int | Sequence[float], nowcaster: Nowcaster) -> list[float]:
    """Return the lead times in steps."""
    if isinstance(timesteps, int | np.integer):
        # a count beyond the limit makes the list one longer than it allows
        steps = [float(step) for step in range(1, min(int(timesteps), MOST_STEPS + 1) + 1)]
    else:
        try:
            steps = [float(step) for step in timesteps]
        except (TypeError, ValueError):
            steps = []
    is_increasing = (np.diff(steps, prepend=0.0) > 0).all()
    needs_whole = not nowcaster.spec.uses_durations
    is_in_range = bool(steps) and is_increasing and steps[-1] <= MOST_STEPS
    if not is_in_range or (needs_whole and any(step % 1 for step in steps)):
        kind = "whole numbers of steps" if needs_whole else "steps"
        raise ConfigError(
            "timesteps",
            expected=f"a number from 1 to {MOST_STEPS}, or a list of increasing {kind} in this range",
            received=repr(timesteps)[:60],
            hint="Pass 12, or a list such as [3, 6, 12].",
        )
    return steps
