"""A watch: every forecast that is due is made once, from complete files, whatever order they arrive in."""

import json
import shutil
import time

import numpy as np
import pytest
import xarray as xr

from convlstm.data import Identity, open_frames
from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.files import DRAFT, write_atomic
from convlstm.nowcast.cf_output import make_forecast
from convlstm.nowcast.folder_lock import locked
from convlstm.nowcast.watch import incoming as incoming_module
from convlstm.nowcast.watch import watcher as watcher_module
from convlstm.nowcast.watch.health import Health, check_health
from convlstm.nowcast.watch.names import OutputNames
from convlstm.nowcast.watch.watcher import Watcher, WatchOptions

HOUR_AND_MORE = 16


class Scene:
    """A watch of a folder in this process, and the frames that may arrive in it."""

    def __init__(self, folder, dataset, nowcaster):
        self.folder, self.dataset, self.nowcaster = folder, dataset, nowcaster
        self.incoming, self.output = folder / "incoming", folder / "out"
        self.incoming.mkdir()
        self.events = []
        self.watcher = None
        self.start()

    def start(self, source=None, **options):
        defaults = {"output": self.output, "settle": 0.0}
        self.watcher = Watcher(
            self.nowcaster, source or self.incoming, WatchOptions(**defaults | options), self.events.append
        )

    def content(self, n):
        path = self.folder / f"frame_{n}.nc"
        self.dataset.isel(time=slice(n, n + 1)).to_netcdf(path)
        return path.read_bytes()

    def arrive(self, *numbers, name="rain_{}.nc"):
        for n in numbers:
            (self.incoming / name.format(n)).write_bytes(self.content(n))
        self.watcher.step()

    def minute(self, n):
        return str(self.dataset["time"].values[n])[11:16].replace(":", "")

    @property
    def made(self):
        return [path.name[-8:-4] for path in sorted(self.output.glob("forecast_*.nc"))]

    def minutes(self, *numbers):
        return [self.minute(n) for n in numbers]

    def forecast(self, n):
        with xr.open_dataset(self.output / f"forecast_20200601T{self.minute(n)}Z.nc") as dataset:
            return dataset["rain"].load()

    def expected(self, n, *missing):
        part = self.dataset.isel(time=slice(n - 2, n + 1)).copy(deep=True)
        for number in missing:
            part["rain"][number - n + 2] = np.nan
        return self.nowcaster.forecast(part)["rain"]

    def of_kind(self, kind):
        return [event for event in self.events if event.kind == kind]


@pytest.fixture
def scene(tmp_path, make_rain, make_nowcaster, monkeypatch):
    monkeypatch.setattr(incoming_module, "RETRY_SECONDS", 0.0)
    return Scene(tmp_path, make_rain(days=1, frames=24), make_nowcaster())


def test_every_frame_gives_one_forecast_that_is_the_one_of_the_command(scene):
    scene.arrive(0, 1, 2)
    assert scene.made == scene.minutes(1, 2)  # with two of three frames, and with all
    for n in (3, 4, 5):
        scene.arrive(n)
        np.testing.assert_array_equal(scene.forecast(n), scene.expected(n))
    rain = scene.dataset["rain"].values
    inputs = np.stack([np.full_like(rain[0], np.nan), rain[0], rain[1]])
    options = {"units": "mm/h", "time_step": 300, "init_time": scene.dataset["time"].values[1]}
    np.testing.assert_array_equal(scene.forecast(1), scene.nowcaster.forecast(inputs, **options)["rain"])
    scene.watcher.step()
    assert scene.made == scene.minutes(1, 2, 3, 4, 5)
    assert [event.values["init_time"][11:16].replace(":", "") for event in scene.of_kind("forecast")] == (
        scene.minutes(2, 1, 3, 4, 5)  # the last one first
    )
    assert scene.of_kind("read")[0].values["data"]["channels"][0]["units"] == "mm/h"


def test_a_torn_file_is_read_when_it_is_complete(scene):
    scene.arrive(0, 1, 2)
    content = scene.content(3)
    for part in (0, 100, len(content) // 2, len(content) - 1):
        (scene.incoming / "rain_3.nc").write_bytes(content[:part])
        scene.watcher.step()
        assert scene.made == scene.minutes(1, 2)
        assert "rain_3.nc: not readable yet" in scene.of_kind("unreadable")[-1].message
    scene.arrive(4)
    np.testing.assert_array_equal(scene.forecast(4), scene.expected(4, 3))
    scene.arrive(3)
    np.testing.assert_array_equal(scene.forecast(3), scene.expected(3))
    assert scene.made == scene.minutes(1, 2, 3, 4)


def test_a_file_that_changes_while_it_is_read_is_read_again(scene, monkeypatch):
    scene.arrive(0, 1, 2)
    wrong, opened = scene.dataset.copy(deep=True), scene.watcher._incoming._read
    wrong["rain"][3] = 50.0

    def read(path):
        frames = opened(path)
        if path.name == "rain_3.nc" and not scene.of_kind("torn"):
            scene.events.append(watcher_module.Event("torn", ""))
            path.write_bytes(scene.content(3) + b" ")
        return frames

    monkeypatch.setattr(scene.watcher._incoming, "_read", read)
    wrong.isel(time=[3]).to_netcdf(scene.incoming / "rain_3.nc")
    scene.watcher.step()
    assert scene.made == scene.minutes(1, 2)
    scene.watcher.step()
    np.testing.assert_array_equal(scene.forecast(3), scene.expected(3))


def test_a_file_is_not_read_before_it_was_left_alone_for_a_while(scene, monkeypatch):
    scene.start(settle=5.0)
    clock = [1000.0]
    monkeypatch.setattr(scene.watcher._incoming, "_clock", lambda: clock[0])
    scene.arrive(0, 1, 2, 3)
    clock[0] += 4.9
    scene.arrive(1)
    assert scene.made == []
    clock[0] += 0.2
    scene.watcher.step()
    assert scene.made == scene.minutes(2, 3)  # without frame 1, which was written again
    np.testing.assert_array_equal(scene.forecast(3), scene.expected(3, 1))
    clock[0] += 5.0
    scene.watcher.step()
    assert scene.made == scene.minutes(1, 2, 3)


def test_a_file_that_stays_unreadable_is_given_up_until_it_changes(scene):
    scene.start(give_up=0.0)
    scene.arrive(0, 1, 2)
    (scene.incoming / "rain_3.nc").write_bytes(scene.content(3)[:500])
    for _ in range(3):
        scene.watcher.step()
    assert [event.level for event in scene.of_kind("given_up")] == ["ERROR"]
    assert scene.watcher.health.given_up == 1
    scene.arrive(4)
    scene.arrive(3)
    assert scene.made == scene.minutes(1, 2, 3, 4)


def test_a_missing_frame_is_bridged_as_missing_values_are(scene):
    scene.arrive(0, 1, 2, 4)
    np.testing.assert_array_equal(scene.forecast(4), scene.expected(4, 3))
    assert [text[11:16] for text in scene.of_kind("forecast")[0].values["missing_inputs"]] == ["00:15"]
    assert [event.values["frame"][11:16] for event in scene.of_kind("missing")] == ["00:15"]
    scene.arrive(7)  # two of its three inputs are missing
    assert scene.made == scene.minutes(1, 2, 4)
    assert "at least 2 of 3, got 1" in scene.of_kind("refused")[-1].message
    scene.arrive(6)
    assert scene.made == scene.minutes(1, 2, 4, 6, 7)
    np.testing.assert_array_equal(scene.forecast(7), scene.expected(7, 5))


def test_a_late_frame_gives_its_forecast_and_a_frame_that_is_too_late_does_not(scene):
    scene.arrive(0, 1, 2)
    scene.arrive(*range(5, HOUR_AND_MORE + 1))
    assert scene.watcher.health.skipped == 2  # frame 0 has too few inputs, and frame 3 is 65 minutes before the last
    scene.arrive(4)
    np.testing.assert_array_equal(scene.forecast(4), scene.expected(4, 3))
    before = scene.made
    scene.arrive(3)
    assert scene.made == before
    assert [event.kind for event in scene.events if "rain_3" in event.message] == ["late"]
    assert scene.of_kind("skipped")[-1].values["reason"] == "no frame arrived in time"


def test_a_second_file_with_the_same_frame_is_not_used(scene):
    scene.arrive(0, 1, 2)
    scene.dataset["rain"][2] = 90.0
    scene.arrive(2, name="copy_{}.nc")
    assert scene.watcher.health.duplicates == 1
    assert len(scene.of_kind("forecast")) == 2
    scene.arrive(2)
    assert len(scene.of_kind("changed")) == 1
    assert len(scene.of_kind("forecast")) == 2


def test_a_restart_makes_what_is_absent_and_nothing_twice(scene):
    scene.arrive(*range(16))
    kept = {path.name: path.stat().st_mtime_ns for path in scene.output.glob("forecast_*.nc")}
    assert len(kept) == 13  # of the last hour
    for n in (6, 10):
        (scene.output / f"forecast_20200601T{scene.minute(n)}Z.nc").unlink()
    draft = scene.output / f".forecast_20200601T{scene.minute(10)}Z.nc.abcdefgh{DRAFT}"
    draft.mkdir()  # what a killed process leaves
    scene.events.clear()
    scene.start(catch_up=2400.0)
    scene.arrive(16)
    names = [event.values["init_time"][11:16].replace(":", "") for event in scene.of_kind("forecast")]
    assert names == scene.minutes(16, 10)  # frame 6 is 50 minutes before frame 16
    unchanged = [path for path in scene.output.glob("forecast_*.nc") if kept.get(path.name) == path.stat().st_mtime_ns]
    assert len(unchanged) == len(kept) - 2
    assert not draft.exists()


def test_only_the_newest_files_of_a_large_folder_are_read_at_the_start(scene, monkeypatch):
    scene.start(catch_up=0.0)
    read = []
    opened = scene.watcher._incoming._read
    monkeypatch.setattr(scene.watcher._incoming, "_read", lambda path: read.append(path.name) or opened(path))
    for n in range(40):
        (scene.incoming / f"old_{n:02}.nc").write_text("no frame")
    time.sleep(0.01)
    scene.arrive(0, 1, 2)
    assert len(set(read)) == 3 * 3 + 16
    assert scene.made == scene.minutes(2)


def test_frames_unlike_those_before_are_refused(scene):
    scene.arrive(0, 1, 2)
    scene.dataset = scene.dataset.isel(x=slice(0, 8))
    scene.arrive(3)
    assert "expected the grid of the frames before" in scene.of_kind("refused")[-1].message
    assert scene.made == scene.minutes(1, 2)


def test_a_frame_far_in_the_future_does_not_make_the_others_too_old(scene):
    scene.arrive(0, 1, 2)
    true = scene.dataset
    scene.dataset = true.assign_coords(time=true["time"] + np.timedelta64(3650, "D"))
    scene.arrive(3, name="future_{}.nc")
    assert "expected times in UTC up to now" in scene.of_kind("refused")[-1].message
    scene.dataset = true
    scene.arrive(3)
    assert scene.made == scene.minutes(1, 2, 3)


def test_frames_at_another_time_step_are_refused(scene):
    scene.arrive(0, 2, 4, 6)
    assert scene.made == []
    assert "time step: expected 300 s" in scene.of_kind("refused")[0].message


def test_files_without_times_are_refused(scene):
    scene.dataset = scene.dataset.drop_vars("time")
    scene.arrive(0, 1, 2)
    assert "expected dates of the standard calendar" in scene.of_kind("unreadable")[0].message
    assert scene.made == []


def test_temporary_and_other_files_are_no_frames(scene):
    for name in (".hidden.nc", "rain_9.nc.part", "rain_9.tmp", "readme.txt", "rain.nc~"):
        (scene.incoming / name).write_bytes(scene.content(9))
    scene.arrive(0, 1, 2)
    assert scene.made == scene.minutes(1, 2)
    assert not scene.of_kind("unreadable")


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_a_store_that_grows(scene, suffix):
    source = scene.folder / f"rain.{suffix}"

    def write(first, last):
        part = scene.dataset.isel(time=slice(first, last))
        if suffix == "zarr":
            part.to_zarr(source, consolidated=False, **({"append_dim": "time"} if first else {}))
        else:
            scene.dataset.isel(time=slice(0, last)).to_netcdf(source)
        scene.watcher.step()

    scene.dataset.isel(time=slice(0, 2)).to_zarr(source, consolidated=False) if suffix == "zarr" else source.touch()
    scene.start(source, catch_up=0.0)
    scene.watcher.step()
    write(2, 4)
    write(4, 5)
    assert scene.made == scene.minutes(*([1, 3, 4] if suffix == "zarr" else [3, 4]))
    np.testing.assert_array_equal(scene.forecast(4), scene.expected(4))


def test_frames_without_values_wait_for_them(scene):
    whole = scene.dataset.copy(deep=True)
    source = scene.folder / "rain.zarr"
    scene.dataset["rain"][4] = np.nan  # the store has grown, but its values are not written yet
    scene.dataset.isel(time=slice(0, 5)).to_zarr(source, consolidated=False)
    scene.start(source, catch_up=0.0)
    scene.watcher.step()
    assert scene.made == []
    whole.isel(time=slice(0, 5)).to_zarr(source, mode="w", consolidated=False)
    scene.watcher.step()
    assert scene.made == scene.minutes(4)


def test_a_full_disk_is_reported_and_the_forecasts_are_made_later(scene, monkeypatch):
    scene.arrive(0, 1, 2)
    write = watcher_module.write_forecast

    def fail(path, forecast):
        raise OutputError(str(path), expected="free space", received="none", hint="Free space.")

    monkeypatch.setattr(watcher_module, "write_forecast", fail)
    scene.arrive(3)
    scene.watcher.step()
    assert [event.level for event in scene.of_kind("refused")] == ["WARNING", "ERROR"]
    assert scene.made == scene.minutes(1, 2)
    monkeypatch.setattr(watcher_module, "write_forecast", write)
    scene.arrive(4)
    assert scene.made == scene.minutes(1, 2, 3, 4)


def test_only_the_last_frames_stay_in_memory(scene):
    scene.start(catch_up=900.0)
    for n in range(24):
        scene.arrive(n)
    recent = scene.watcher._recent
    assert len(recent._values) <= 3 + 3
    assert len(recent.times) <= 3 + 3 + 1
    assert len(scene.watcher._schedule._made) <= 3 + 3 + 1
    assert scene.watcher.health.forecasts == 23
    assert sum(signature is not None for signature in scene.watcher._incoming._done.values()) <= 3 + 3 + 1


def test_frames_are_read_again_when_an_old_forecast_needs_them(scene):
    scene.arrive(0, 1, 3, *range(4, 12))
    assert len(scene.watcher._recent._values) <= 3 + 3
    scene.arrive(2)
    np.testing.assert_array_equal(scene.forecast(2), scene.expected(2))


def test_two_watches_never_share_an_output_folder(scene):
    with locked(scene.output, "watch"), pytest.raises(OutputError, match="expected no other watch in this folder"):
        scene.watcher.run()
    assert not (scene.output / "health.json").exists()


def test_the_folder_of_the_frames_is_no_output_folder(scene, refused):
    with refused(OutputError, str(scene.incoming)):
        scene.start(output=scene.incoming)
    with refused(DataError, str(scene.folder / "nowhere")):
        scene.start(scene.folder / "nowhere")
    with refused(ConfigError, "lead times"):
        scene.start(lead_times=[10.0])


def test_forecasts_below_the_source_are_no_frames(scene):
    scene.output = scene.incoming / "out"
    scene.start(pattern="**/*.nc")
    scene.arrive(0, 1, 2)
    scene.arrive(3)
    assert scene.made == scene.minutes(1, 2, 3)
    assert scene.watcher.health.duplicates == 0


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("forecast_%Y%m%d.nc", "another name for each initial time"),
        ("forecast_%H%M.nc", "another name for each initial time"),
        ("../%Y%m%d%H%M.nc", "within the output folder"),
        ("/elsewhere/%Y%m%d%H%M.nc", "within the output folder"),
        ("%Y%m%d%H%M.tif", "ends in .nc or .nc4 or .zarr"),
        ("%Y%m%d%H%M%q.nc", "fields among"),
        ("%Y%m%d%H%M.nc%", "fields among"),
    ],
)
def test_a_template_must_give_every_forecast_a_name(tmp_path, refused, template, words):
    with pytest.raises(ConfigError, match=words) as caught:
        OutputNames(tmp_path, template, 300.0)
    with refused(ConfigError, "--name"):
        raise caught.value


def test_a_template_may_have_folders_and_write_zarr(scene):
    scene.start(name="%Y/%m/rain_%Y%m%d%H%M.zarr")
    scene.arrive(0, 1, 2)
    assert (scene.output / "2020/06/rain_202006010010.zarr/rain").is_dir()
    scene.start(name="%Y/%m/rain_%Y%m%d%H%M.zarr")
    scene.watcher.step()
    assert len(scene.of_kind("forecast")) == 2


@pytest.mark.parametrize(
    ("layout", "name", "dims"),
    [
        ("weatherbench", "rain", ("init_time", "lead_time", "y", "x")),
        ("pysteps", "precip_intensity", ("time", "y", "x")),
    ],
)
def test_forecasts_have_the_layout_that_was_chosen(scene, layout, name, dims):
    scene.start(layout=layout, name="rain_%Y%m%d%H%M.nc4")
    scene.arrive(0, 1, 2)
    with xr.open_dataset(scene.output / "rain_202006010010.nc4") as dataset:
        assert dataset[name].dims == dims
        received = dataset[name].squeeze(drop=True).sortby("y").values
    np.testing.assert_array_equal(received, scene.expected(2).sortby("y").values)


def test_a_layout_that_the_model_cannot_have_is_refused_at_the_start(scene, refused, make_nowcaster):
    with refused(ConfigError, "--layout"):
        scene.start(layout="grib")
    scene.nowcaster = make_nowcaster(variables=("t2m",), units="K", transform=Identity())
    with refused(ConfigError, "--layout"):
        scene.start(layout="pysteps")
    scene.start(layout="weatherbench")


def sums_in_mm(rain):
    """The sums since the first frame, 0 there, of rain in mm/h that falls over the five minutes before each frame."""
    rates = rain["rain"].copy(deep=True)
    rates[0] = 0
    return rain.assign(rain=(rates.cumsum("time") / 12).astype("float64").assign_attrs(units="mm"))


def test_sums_since_a_start_are_read_from_a_store_that_grows(scene):
    sums, source = sums_in_mm(scene.dataset), scene.folder / "sums.zarr"
    sums.isel(time=slice(0, 4)).to_zarr(source, consolidated=False)
    scene.start(source, catch_up=0.0, reading={"accumulated": True})
    scene.watcher.step()
    sums.isel(time=slice(4, 6)).to_zarr(source, consolidated=False, append_dim="time")
    scene.watcher.step()
    assert scene.made == scene.minutes(3, 5)
    for n in (3, 5):
        np.testing.assert_allclose(scene.forecast(n), scene.expected(n), rtol=1e-3, atol=1e-4)


def test_sums_since_a_start_are_read_from_files_of_two_sums(scene):
    sums = sums_in_mm(scene.dataset)
    scene.start(catch_up=0.0, reading={"accumulated": True})
    for n in range(1, 5):
        sums.isel(time=slice(n - 1, n + 1)).to_netcdf(scene.incoming / f"sums_{n}.nc")
        scene.watcher.step()
    assert scene.made == scene.minutes(2, 3, 4)
    np.testing.assert_allclose(scene.forecast(4), scene.expected(4), rtol=1e-3, atol=1e-4)


def test_files_of_one_sum_since_a_start_are_never_taken_for_sums_over_one_step(scene):
    """Files of one sum cannot show what it is: the frames together can, and an option decides before."""
    scene.dataset = sums_in_mm(scene.dataset).rename(rain="tp")
    scene.dataset["tp"].attrs["standard_name"] = "rainfall_amount"
    scene.arrive(*range(6))
    assert scene.made == []
    reasons = [event.values["reason"] for event in scene.of_kind("refused")]
    of_sums = [text for text in reasons if text.startswith("tp: expected sums of rain over one time step")]
    assert len(of_sums) == 5
    assert all("`--accumulated`" in text and "`--no-accumulated`" in text for text in of_sums)

    scene.start(reading={"accumulated": True})
    scene.watcher.step()
    assert scene.made == []
    assert "tp: expected two sums in a row, got one frame" in scene.of_kind("unreadable")[-1].message

    scene.start(reading={"accumulated": False})
    scene.watcher.step()
    assert scene.made == scene.minutes(1, 2, 3, 4, 5)


def test_a_store_is_known_by_its_content_and_pictures_are_left_out(scene):
    for n in (0, 1, 2):
        scene.dataset.isel(time=[n]).to_zarr(scene.incoming / f"rain_{n}", consolidated=False)
        (scene.incoming / f"rain_{n}.png").write_bytes(b"picture")
    scene.watcher.step()
    assert scene.made == scene.minutes(1, 2)
    assert not scene.of_kind("unreadable")


def test_files_of_one_frame_whose_time_is_in_their_name(scene):
    for n in (0, 1, 2):
        frame = scene.dataset.isel(time=n, drop=True)
        frame.to_netcdf(scene.incoming / f"rain_20200601{scene.minute(n)}.nc")
    scene.watcher.step()
    assert scene.made == scene.minutes(1, 2)
    np.testing.assert_array_equal(scene.forecast(2), scene.expected(2))


def test_the_health_file_says_what_happened_last(scene):
    scene.arrive(0, 1, 2)
    path = scene.output / "health.json"
    health = json.loads(path.read_text())
    assert health["state"] == "waiting"
    assert health["last_frame"] == "2020-06-01T00:10:00Z"
    assert (health["forecasts"], health["last_init_time"]) == (2, "2020-06-01T00:05:00Z")  # the last one first
    assert health["last_output"].endswith(".nc")
    assert health["compute_seconds"] > 0
    assert health["problem"] is None or "no forecast from 2020-06-01T00:00" in health["problem"]
    now = time.time()
    assert check_health(path, now, 60.0)[0]
    assert not check_health(path, now + 300, 60.0)[0]
    assert "expected an update within 60 s" in check_health(path, now + 300, 60.0)[1]
    assert "no forecast for 5 min" in check_health(path, now + 300, 600.0, 60.0)[1]


@pytest.mark.parametrize("content", ["", "[]", '{"state": "waiting"}'])
def test_another_file_is_no_health_file(tmp_path, refused, content):
    path = tmp_path / "health.json"
    write_atomic(path, lambda draft: draft.write_text(content))
    with refused(DataError, str(path)):
        check_health(path, 0.0, 60.0)


def test_a_stopped_watch_is_not_healthy(tmp_path):
    path = tmp_path / "health.json"
    Health("stopped", "2020-06-01T00:00:00Z", "2020-06-01T00:00:00Z", 1, "0", "", "", problem="a fault").write(path)
    healthy, text = check_health(path, 1590969600.0, 60.0)
    assert not healthy
    assert text.startswith("unhealthy: stopped, updated 0 s ago")
    assert text.endswith("a fault")


def test_a_whole_folder_is_read_as_forecast_reads_one_file(scene, make_nowcaster):
    scene.arrive(*range(8))
    scene.dataset.isel(time=slice(0, 8)).to_netcdf(scene.folder / "all.nc")
    frames = open_frames(scene.folder / "all.nc")
    np.testing.assert_array_equal(scene.forecast(7), make_forecast(scene.nowcaster, frames)["rain"])
    shutil.rmtree(scene.incoming)
    scene.watcher.step()  # a folder that is not there for a moment
    scene.incoming.mkdir()
    scene.arrive(8)
    assert scene.made[-1] == scene.minute(8)
