"""Forecasts in tiles: the values of the whole grid, continued after an interruption, and refused for others."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import xarray as xr
import zarr
from scipy import ndimage

from convlstm import files
from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.nowcast.cf_output import make_forecast
from convlstm.nowcast.content_digest import DIGEST, check_forecast
from convlstm.nowcast.moving_frame import Rectangle
from convlstm.nowcast.tiled_forecast import forecast_in_tiles
from convlstm.nowcast.tiled_store import UNFINISHED
from convlstm.nowcast.tiles import Tiling, choose_tiling

HEIGHT, WIDTH = 110, 86  # no multiples of the patch size or of the tiles
LEADS = [300.0, 600.0, 1200.0]


class StopError(Exception):
    """Ends a forecast from within."""


@pytest.fixture(scope="module")
def texture():
    """Rain in mm/h that drifts over a grid of several tiles, with a hole and a corner that is never observed."""
    random = np.random.default_rng(3)
    pattern = ndimage.gaussian_filter(random.normal(size=(160, 160)), 4)
    rain = np.maximum(6 * pattern / pattern.std() - 2, 0).astype(np.float32)
    frames = np.stack([rain[30 - 2 * n : 30 - 2 * n + HEIGHT, 20 + n : 20 + n + WIDTH] for n in range(6)])
    frames[2:4, 30:40, 40:52] = np.nan
    frames[:, :9, -14:] = np.nan
    time = np.datetime64("2020-06-01T00:00", "ns") + np.arange(6) * np.timedelta64(300, "s")
    coords = {
        "time": time,
        "y": ("y", np.arange(HEIGHT) * 1000.0, {"units": "m"}),
        "x": ("x", np.arange(WIDTH) * 1000.0, {"units": "m"}),
        "lat": (("y", "x"), np.linspace(45, 55, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH), {"units": "degrees_north"}),
    }
    return xr.Dataset({"rain": (("time", "y", "x"), frames, {"units": "mm/h"})}, coords=coords)


@pytest.fixture
def frames(read, texture):
    return read(texture)


@pytest.fixture
def in_tiles(event_nowcaster, frames, tmp_path, monkeypatch):
    """Forecast in tiles into `tmp_path`; the time of the run is always the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")

    def run(name="forecast.zarr", *, nowcaster=event_nowcaster, **options):
        return forecast_in_tiles(nowcaster, frames, tmp_path / name, **{"tile": 32, "lead_times": LEADS} | options)

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tiles_in_the_moving_frame_have_the_values_of_the_whole_grid(event_nowcaster, frames, in_tiles):
    whole, store = make_forecast(event_nowcaster, frames, lead_times=LEADS), in_tiles()
    assert set(store.data_vars) == set(whole.data_vars)
    chance = "probability_of_rain_above_threshold"
    assert np.nanstd(whole[chance].sel(threshold=1.0)) > 1e-3  # the forecast depends on the place
    np.testing.assert_allclose(store[chance], whole[chance], atol=1e-6, rtol=0)
    np.testing.assert_allclose(store["rain_mean"], whole["rain_mean"], atol=1e-5, rtol=0)
    assert np.isnan(store["rain_mean"].values[:, :9, -14:]).all()
    # where a probability is at its cut, rounding decides on the field
    cuts = event_nowcaster.rules.cuts_of(event_nowcaster.nearest_steps(np.array(LEADS))).T[..., None, None]
    clear = (np.abs(whole[chance].values - cuts) > 1e-5).all(axis=0)
    assert clear.mean() > 0.95
    np.testing.assert_allclose(store["rain"].values[clear], whole["rain"].values[clear], atol=1e-3)


def test_the_store_has_the_metadata_of_the_file_and_chunks_of_one_tile(event_nowcaster, frames, in_tiles):
    whole, store = make_forecast(event_nowcaster, frames, lead_times=LEADS), in_tiles()
    attributes = dict(store.attrs)
    assert json.loads(attributes.pop("tiled_forecast"))["tile"] == 32
    assert attributes.pop(DIGEST)
    assert attributes == whole.attrs
    assert set(store.coords) == set(whole.coords)
    for name in whole.coords:
        np.testing.assert_array_equal(store[name], whole[name])
    for name in whole.data_vars:
        assert store[name].attrs == whole[name].attrs
        assert store[name].encoding["chunks"][-3:] == (1, 32, 32)


@pytest.mark.parametrize("model", [{}, {"rollout": "feedback"}])
def test_tiles_of_a_model_of_values_have_those_of_the_whole_grid(make_nowcaster, in_tiles, frames, model):
    nowcaster = make_nowcaster(model=model, data={"input_length": 2})
    whole = make_forecast(nowcaster, frames, lead_times=LEADS)
    store = in_tiles(nowcaster=nowcaster, tile=24)
    np.testing.assert_allclose(store["rain"], whole["rain"], atol=1e-6, rtol=1e-5)
    narrow = in_tiles("narrow.zarr", nowcaster=nowcaster, tile=24, overlap=0)
    assert np.nanmax(np.abs(narrow["rain"] - whole["rain"])) > 1e-4


def test_an_overlap_of_fewer_cells_has_an_error_near_the_edges_of_tiles(in_tiles):
    exact, narrow = in_tiles(), in_tiles("narrow.zarr", overlap=0)
    error = np.abs(narrow["rain_mean"] - exact["rain_mean"]).max("lead_time").values
    assert np.nanmax(error) > 1e-4
    assert json.loads(exact.attrs["tiled_forecast"])["overlap"] == 36  # 9 patches: 6 steps, 2 layers, 1 to interpolate


def test_an_interrupted_forecast_continues_with_the_same_bytes(in_tiles, tmp_path):
    in_tiles("whole.zarr")

    def stop(done, of):
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        in_tiles(on_tile=stop)
    assert not (tmp_path / "forecast.zarr").exists()
    folder = tmp_path / f"forecast.zarr{UNFINISHED}"
    assert sorted(path.name for path in folder.glob("tile-*")) == ["tile-0.0", "tile-0.1"]
    calls = []
    in_tiles(on_tile=lambda *done: calls.append(done))
    assert calls[:2] == [(2, 12), (3, 12)]
    assert calls[-1] == (12, 12)
    assert contents(tmp_path / "forecast.zarr") == contents(tmp_path / "whole.zarr")
    assert not folder.exists()


def test_a_complete_store_has_the_digest_of_its_content(in_tiles, tmp_path):
    in_tiles()
    path = tmp_path / "forecast.zarr"
    kind, digest = check_forecast(path)
    assert kind.startswith("forecast, ")
    for name in (".zattrs", ".zmetadata"):
        assert f'"{DIGEST}": "{digest}"' in (path / name).read_text()
    array = zarr.open_group(path, mode="r+")["rain"]
    array[0, 50, 40] = array[0, 50, 40] + 1
    with pytest.raises(DataError, match="content with another digest"):
        check_forecast(path)


def test_a_forecast_that_ends_before_its_digest_keeps_its_tiles(in_tiles, monkeypatch):
    def stop(dataset):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convlstm.nowcast.tiled_store.content_digest", stop)
        with pytest.raises(KeyboardInterrupt):
            in_tiles()
    done = []
    assert DIGEST in in_tiles(on_tile=lambda *counts: done.append(counts)).attrs
    assert done == [(12, 12)]


def test_a_complete_store_is_not_computed_again(in_tiles):
    in_tiles()
    calls = []
    assert in_tiles(on_tile=lambda *done: calls.append(done)).sizes["lead_time"] == 3
    assert calls == []


def test_a_store_of_another_forecast_is_refused_or_replaced(in_tiles, refused, tmp_path):
    def stop(done, of):
        if done:
            raise StopError

    with pytest.raises(StopError):
        in_tiles(on_tile=stop)
    unfinished = str(tmp_path / f"forecast.zarr{UNFINISHED}" / "forecast.zarr")
    with refused(OutputError, unfinished):
        in_tiles(overlap=4)
    in_tiles()
    before = contents(tmp_path / "forecast.zarr")
    with pytest.raises(OutputError, match=r"one that differs in lead_times, tile, overlap\. Choose another"):
        in_tiles(tile=64, lead_times=[300.0])
    assert contents(tmp_path / "forecast.zarr") == before
    store = in_tiles(tile=64, lead_times=[300.0], overwrite=True)
    assert store["rain"].shape == (1, HEIGHT, WIDTH)
    assert store["rain"].encoding["chunks"] == (1, 64, 64)


def test_a_store_of_other_cuts_is_refused(in_tiles, event_nowcaster):
    """A training writes the cuts at its end, next to the same weights."""
    in_tiles()
    model = event_nowcaster.model
    cuts = {**model.extra["events"], "cuts": [[0.5] * len(row) for row in model.extra["events"]["cuts"]]}
    other = replace(model, extra=model.extra | {"events": cuts})
    with pytest.raises(OutputError, match="one that differs in model_options"):
        in_tiles(nowcaster=replace(event_nowcaster, model=other))


class KilledError(BaseException):
    """Ends a forecast as a kill does: what is left stays."""


def kill_after_the_move(monkeypatch, tmp_path, tiled):
    """Run a forecast that ends when its complete store has replaced an older one, of which one part is removed."""

    def stop(draft, path):
        files._put(draft, path)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("convlstm.nowcast.tiled_store.move_into_place", stop)
        with pytest.raises(KilledError):
            tiled()
    left = tmp_path / f"forecast.zarr{UNFINISHED}"
    next(left.glob("forecast.zarr/rain/0.0.*")).unlink()
    return left


def test_the_next_run_removes_what_a_kill_after_the_move_left(in_tiles, tmp_path, monkeypatch):
    in_tiles(lead_times=[300.0])
    left = kill_after_the_move(monkeypatch, tmp_path, lambda: in_tiles(overwrite=True))
    complete = contents(tmp_path / "forecast.zarr")
    calls = []
    in_tiles(on_tile=lambda *done: calls.append(done))
    assert not left.exists()
    assert (calls, contents(tmp_path / "forecast.zarr")) == ([], complete)


def test_an_older_store_that_a_kill_left_half_removed_is_not_used(in_tiles, tmp_path, monkeypatch):
    in_tiles(lead_times=[300.0])
    whole = contents(tmp_path / "forecast.zarr")
    kill_after_the_move(monkeypatch, tmp_path, lambda: in_tiles(overwrite=True))
    in_tiles(lead_times=[300.0], overwrite=True)
    assert contents(tmp_path / "forecast.zarr") == whole


def test_two_names_of_a_store_have_one_unfinished_store(in_tiles, refused, tmp_path):
    (tmp_path / "link.zarr").symlink_to(tmp_path / "forecast.zarr")

    def stop(done, of):
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        in_tiles("link.zarr", on_tile=stop)
    with refused(OutputError, str(tmp_path / f"forecast.zarr{UNFINISHED}" / "forecast.zarr")):
        in_tiles(overlap=4)
    calls = []
    in_tiles(on_tile=lambda *done: calls.append(done))
    assert calls[0] == (2, 12)


@pytest.mark.parametrize("has_moved", [False, True])
def test_without_an_exchange_of_folders_a_kill_loses_neither_store(in_tiles, tmp_path, monkeypatch, has_moved):
    monkeypatch.setattr("convlstm.files._exchange", lambda one, other: False)
    in_tiles(lead_times=[300.0])
    older = contents(tmp_path / "forecast.zarr")

    def stop(draft, path):
        old = draft.with_name(draft.name + "~")
        path.rename(old)
        if has_moved:
            draft.rename(path)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("convlstm.nowcast.tiled_store.move_into_place", stop)
        with pytest.raises(KilledError):
            in_tiles(overwrite=True)

    def fail(done, of):
        raise StopError

    if not has_moved:
        with pytest.raises(StopError):
            in_tiles(lead_times=[600.0], overwrite=True, on_tile=fail)
        assert contents(tmp_path / "forecast.zarr") == older
    assert in_tiles(lead_times=[600.0], overwrite=True).sizes["lead_time"] == 1
    assert not (tmp_path / f"forecast.zarr{UNFINISHED}").exists()


def test_a_link_to_a_store_stays(in_tiles, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "forecast.zarr").symlink_to(tmp_path / "elsewhere" / "store.zarr")
    in_tiles()
    assert (tmp_path / "forecast.zarr").is_symlink()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["store.zarr"]


def test_an_error_before_the_first_tile_leaves_nothing(in_tiles, tmp_path):
    def stop(done, of):
        raise StopError

    before = sorted(tmp_path.iterdir())
    with pytest.raises(StopError):
        in_tiles(on_tile=stop)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "argument", "words"),
    [
        ({"tile": 30}, "tile", "a multiple of 4 cells, as a multiple of the patch size and of 4, got 30. Pass 32."),
        ({"tile": 2}, "tile", "got 2. Pass 4."),
        ({"overlap": -4}, "overlap", "at least 0 cells, got -4"),
    ],
)
def test_tiles_that_do_not_fit_the_model_are_refused(in_tiles, refused, options, argument, words):
    with pytest.raises(ConfigError) as caught:
        in_tiles(**options)
    assert words in str(caught.value)
    with refused(ConfigError, argument):
        in_tiles(**options)


def test_a_model_whose_values_are_not_local_is_refused(make_nowcaster, in_tiles):
    with pytest.raises(ConfigError, match="tile: expected a model without norm='layer', with which a forecast depends"):
        in_tiles(nowcaster=make_nowcaster(model={"norm": "layer"}, data={"input_length": 2}))


def test_the_tiles_cover_every_cell_once():
    tiling = Tiling((HEIGHT, WIDTH), 32, 8)
    count = np.zeros((HEIGHT, WIDTH), int)
    for number in range(len(tiling)):
        count[tiling.cells(number).slices(Rectangle(0, 0, HEIGHT, WIDTH))] += 1
    assert (count == 1).all()


def test_the_overlap_grows_with_the_lead_time(event_nowcaster):
    choose = partial(choose_tiling, event_nowcaster, (HEIGHT, WIDTH), size=32, overlap=None)
    overlaps = [choose(np.arange(1, steps + 1) * 300.0).overlap for steps in (1, 4, 12)]
    assert overlaps == [24, 36, 68]


def test_a_rectangle_with_a_margin_stays_within_the_whole_and_keeps_its_steps():
    whole = Rectangle(-7, -5, 60, 44)
    assert Rectangle(0, 0, 10, 10).enlarged(0, whole, 4) == Rectangle(-3, -1, 16, 12)
    assert Rectangle(0, 0, 10, 10).enlarged(100, whole, 4) == whole
    assert Rectangle(200, 0, 10, 10).enlarged(0, whole, 32) == Rectangle(25, -5, 28, 32)
    assert Rectangle(-90, 30, 10, 30).enlarged(2, whole, 4) == Rectangle(-7, 27, 4, 12)
    # cells beyond the whole take its first row, which depends on the rows of the margin
    assert Rectangle(-90, 30, 10, 30).enlarged(9, whole, 4) == Rectangle(-7, 19, 12, 20)
