"""Frames that a caller has in memory, as the input of a forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from numpy.typing import ArrayLike

from convlstm.data import Frames, open_frames
from convlstm.data.in_memory import Time, as_datetime64, dataset_of_array
from convlstm.errors import ConfigError
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.nowcast.provenance import Provenance


def as_frames(
    nowcaster: Nowcaster,
    frames: ArrayLike | xr.DataArray | xr.Dataset | Frames,
    *,
    units: str | Sequence[str] | None,
    time_step: float | None,
    init_time: Time | None,
    reading: Mapping[str, Any],
) -> tuple[Frames, str | None]:
    """Return frames as a sequence, with the initial time as a text; the arguments are those of `Nowcaster.forecast`."""
    if isinstance(frames, xr.DataArray | xr.Dataset):
        options = dict(reading) | {
            name: value for name, value in (("units", units), ("time_step", time_step)) if value is not None
        }
        return nowcaster.open_frames(_named(frames, nowcaster), **options), _text(init_time)
    if isinstance(frames, Frames):
        _refuse({"units": units, "time_step": time_step, **reading}, "a sequence of `open_frames`")
        return frames, _text(init_time)
    missing = reading.get("missing", Provenance.of_model(nowcaster.model).reading_options.get("missing"))
    _refuse({name: value for name, value in reading.items() if name != "missing"}, "an array")
    needed = (("units", units), ("time_step", time_step), ("init_time", init_time))
    for name, value in needed:
        if value is None:
            raise ConfigError(
                name,
                expected="a value for an array, which does not tell it",
                received="none",
                hint="Pass it, or pass an object of xarray.",
            )
    assert units is not None
    assert time_step is not None
    assert init_time is not None
    pipeline = nowcaster.pipeline
    dataset = dataset_of_array(frames, pipeline.variables, time_step=time_step, last_time=init_time)
    sequence = open_frames(
        dataset,
        variables=pipeline.variables,
        units=units,
        time_step=time_step,
        rain=pipeline.rain,
        missing=missing,
    )
    return sequence, None


def _named(frames: xr.DataArray | xr.Dataset, nowcaster: Nowcaster) -> xr.Dataset:
    """Return a dataset; an array without a name gets that of the model's variable."""
    if isinstance(frames, xr.Dataset):
        return frames
    return frames.to_dataset(name=frames.name or nowcaster.pipeline.variables[0])


def _text(time: Time | None) -> str | None:
    """Return a time as a text without offset; other texts are checked where a frame is selected."""
    if time is None or isinstance(time, str):
        return time
    return str(as_datetime64(time).astype("datetime64[s]"))


def _refuse(options: Mapping[str, Any], kind: str) -> None:
    """Raise an error for an option that would have no effect."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                name, expected=f"no such option for {kind}", received=repr(value)[:60], hint="Leave it out."
            )
