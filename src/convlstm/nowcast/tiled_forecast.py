"""Forecast a large grid tile by tile into a Zarr store, with the memory of the input and of one tile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm import __version__
from convlstm.data import Frames
from convlstm.data.units import Field
from convlstm.files import check_suffix, check_writable
from convlstm.nowcast.baselines import Extrapolation
from convlstm.nowcast.cells import predict_cells
from convlstm.nowcast.cf_output import QUANTILES, Fields, forecast_dataset, lead_seconds, where_observed
from convlstm.nowcast.forecast_attributes import forecast_attributes
from convlstm.nowcast.inputs import choose_inputs
from convlstm.nowcast.moving_frame import Rectangle
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.nowcast.tiled_store import TiledStore
from convlstm.nowcast.tiles import Tiling, choose_tiling


def forecast_in_tiles(
    nowcaster: Nowcaster,
    frames: Frames,
    path: str | Path,
    *,
    tile: int,
    overlap: int | None = None,
    lead_times: Sequence[float] | None = None,
    init_time: str | None = None,
    max_age: float | None = None,
    now: datetime | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    on_tile: Callable[[int, int], None] = lambda done, of: None,
) -> xr.Dataset:
    """Write the forecast of `make_forecast` as a Zarr store, tile by tile, and return the store.

    Finished tiles of the same forecast are not computed again, and a complete store is returned as it is. `tile` and
    `overlap` are in cells; `overwrite` replaces a store of another forecast. `on_tile` gets the number of finished
    tiles and of all. The other arguments are those of `make_forecast`.
    """
    path = Path(path)
    check_suffix(path, (".zarr",))
    check_writable(path, folder=True)
    index = choose_inputs(nowcaster, frames, init_time=init_time, max_age=max_age, now=now)
    leads = lead_seconds(nowcaster) if lead_times is None else np.asarray(lead_times, dtype=np.float64)
    tiling = choose_tiling(nowcaster, (frames.shape[2], frames.shape[3]), leads, tile, overlap)
    inputs = _read_one_by_one(frames, index)
    attributes = forecast_attributes(nowcaster, frames, index, inputs, command)
    forecast = _Forecast(nowcaster, frames, inputs, index, leads, attributes, tiling)
    store = TiledStore(path, forecast.identity())
    if store.is_complete:
        store.remove_leftovers()
    else:
        store.check(overwrite=overwrite)
        _write(forecast, store, on_tile)
    result: xr.Dataset = xr.open_zarr(path, chunks=None, decode_timedelta=True)
    return result


def _write(forecast: _Forecast, store: TiledStore, on_tile: Callable[[int, int], None]) -> None:
    """Forecast and write the tiles that are not finished."""
    tiling = forecast.tiling
    with store.begun(forecast.template()):
        left = [number for number in range(len(tiling)) if not store.has(tiling.place(number))]
        on_tile(len(tiling) - len(left), len(tiling))
        flow = forecast.flow() if left else None
        for count, number in enumerate(left, start=1 + len(tiling) - len(left)):
            cells = tiling.cells(number)
            fields = forecast.fields(cells, flow)
            store.write(tiling.place(number), cells.slices(forecast.whole), fields)
            on_tile(count, len(tiling))


@dataclass(frozen=True, eq=False)
class _Forecast:
    """What all tiles share: the model, the input on the whole grid, and the attributes of the store."""

    nowcaster: Nowcaster
    frames: Frames
    inputs: Field  # (time, channel, height, width)
    index: slice
    leads: NDArray[np.float64]
    attributes: Mapping[str, str]
    tiling: Tiling

    @property
    def whole(self) -> Rectangle:
        """All cells of the grid."""
        return Rectangle(0, 0, *self.tiling.grid)

    def flow(self) -> Extrapolation | None:
        """Return the motion on the whole grid and the frame that it moves, for a model with thresholds."""
        if not self.nowcaster.spec.thresholds:
            return None
        return Extrapolation.of_inputs(self.inputs[:, 0], self.frames.seconds[self.index])

    def fields(self, cells: Rectangle, flow: Extrapolation | None) -> dict[str, Field]:
        """Return the fields (..., y, x) of some cells by name."""
        nowcaster, leads = self.nowcaster, self.leads
        output = predict_cells(
            nowcaster,
            self.inputs,
            self.frames.seconds[self.index],
            leads,
            cells,
            overlap=self.tiling.overlap,
            motion=None if flow is None else flow.motion,
        )
        fields = Fields(output)
        if flow is not None:
            points = np.indices((cells.height, cells.width)) + np.array([cells.top, cells.left], float).reshape(2, 1, 1)
            moved = np.nan_to_num(flow.moved(leads, points))
            mean = nowcaster.rules.mean(output, moved, nowcaster.nearest_steps(leads))
            fields = Fields.of_probability(nowcaster, output, mean, leads)
        rows, columns = cells.slices(self.whole)
        part = {self.frames.y_dim: rows, self.frames.x_dim: columns}
        frames = replace(self.frames, grid=self.frames.grid.isel(part, missing_dims="ignore"))
        dataset = where_observed(self._dataset(frames, fields), frames, self.inputs[..., rows, columns])
        return {name: dataset[name].values for name in self._names(dataset)}

    def template(self) -> xr.Dataset:
        """Return the forecast of the whole grid without values, as arrays of Dask in chunks of one tile."""
        from dask.array import full

        count, thresholds = len(self.leads), len(self.nowcaster.spec.thresholds)
        grid, size = self.tiling.grid, self.tiling.size
        empty = Fields(_empty(count, 1 if thresholds else len(self.frames.variables), *grid))
        if thresholds:
            quantiles = _empty(len(QUANTILES), count, *grid)
            empty = Fields(empty.values, _empty(count, *grid), quantiles, _empty(count, thresholds, *grid))
        dataset = self._dataset(self.frames, empty)
        return dataset.assign(
            {
                name: dataset[name].copy(
                    data=full(
                        dataset[name].shape,
                        np.nan,
                        dtype=np.float32,
                        chunks=(*(1,) * (dataset[name].ndim - 2), size, size),
                    )
                )
                for name in self._names(dataset)
            }
        )

    def identity(self) -> dict[str, Any]:
        """Return what decides the values of the store, as JSON values."""
        nowcaster = self.nowcaster
        return {
            "version": __version__,
            "model": nowcaster.model.digest,
            "model_options": _digest_of_json([nowcaster.spec.to_dict(), nowcaster.model.extra]),
            "framework": nowcaster.trainer.description,
            "input": self.attributes["input_digest"],
            "input_times": self.attributes["input_times"],
            "variables": list(self.frames.variables),
            "grid": [*self.tiling.grid, _digest(self.frames.grid)],
            "lead_times": self.leads.tolist(),
            "tile": self.tiling.size,
            "overlap": self.tiling.overlap,
        }

    def _dataset(self, frames: Frames, fields: Fields) -> xr.Dataset:
        return forecast_dataset(self.nowcaster, frames, fields, self.leads, self.index.stop - 1, self.attributes)

    def _names(self, dataset: xr.Dataset) -> list[str]:
        """Return the names of the fields."""
        return [str(name) for name, field in dataset.data_vars.items() if "lead_time" in field.dims]


def _read_one_by_one(frames: Frames, index: slice) -> Field:
    """Return frames (time, channel, height, width), read one by one to limit the memory."""
    inputs = np.empty((index.stop - index.start, *frames.shape[1:]), np.float32)
    for n in range(len(inputs)):
        inputs[n] = frames.read(slice(index.start + n, index.start + n + 1))[0]
    return inputs


def _empty(*shape: int) -> Field:
    """Return missing values of a shape, in the memory of one."""
    return np.broadcast_to(np.float32(np.nan), shape)


def _digest_of_json(values: object) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(grid: xr.Dataset) -> str:
    """Return the SHA-256 of the coordinates and the projection of a grid."""
    digest = hashlib.sha256()
    for name in sorted(map(str, grid.variables)):
        variable = grid[name]
        digest.update(f"{name} {variable.dims} {variable.dtype} {sorted(variable.attrs.items())}".encode())
        values = variable.values
        digest.update(str(values.tolist()).encode() if values.dtype.kind == "O" else values.tobytes())
    return digest.hexdigest()
