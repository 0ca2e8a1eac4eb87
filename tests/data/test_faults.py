"""Files that cannot be used: one clear line each, and nothing in them is run or believed."""

import json
import os
import pickle
import shutil

import netCDF4
import numpy as np
import pytest
import zarr

from convlstm.data import open_frames, sample_path
from convlstm.errors import DataError


def refused(path, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        open_frames(path, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_nothing_there(tmp_path):
    refused(tmp_path / "no.nc", r"no\.nc: expected a file or a Zarr folder, got nothing there. Correct the path")


def test_a_pipe_and_a_device_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.nc")
    refused(tmp_path / "pipe.nc", "got a device or pipe")
    refused("/dev/zero", "got a device or pipe")


def test_a_folder_without_zarr(tmp_path):
    refused(tmp_path, "got a folder without Zarr metadata")


@pytest.mark.parametrize("content", [b"", b"time,rain\n0,1\n", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_a_file_of_another_kind(content, tmp_path):
    (tmp_path / "rain.nc").write_bytes(content)
    refused(tmp_path / "rain.nc", r"rain\.nc: expected data that can be read, got .*(NetCDF|open file)")


def test_an_address_without_a_server():
    refused(
        "http://localhost:1/rain.nc", r"http://localhost:1/rain\.nc: expected an address that answers, got .*connect"
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file(share, tmp_path):
    whole = sample_path().read_bytes()
    (tmp_path / "rain.nc").write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / "rain.nc", "that can be read, got .*(HDF error|truncated file)")


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("unlimited", [(), ("time",)])
@pytest.mark.parametrize("kept", [4, 30, 500, 10_000, -4])
def test_a_truncated_file_of_the_classic_formats(kept, unlimited, form, tmp_path, rain_dataset, rain_counts):
    dataset = rain_dataset(rain_counts(50, 20, 20))
    dataset.to_netcdf(tmp_path / "whole.nc", format=form, engine="netcdf4", unlimited_dims=unlimited)
    (tmp_path / "rain.nc").write_bytes((tmp_path / "whole.nc").read_bytes()[:kept])
    refused(tmp_path / "rain.nc", "got .* bytes. Download the file again")


def test_a_damaged_file(tmp_path):
    damaged = bytearray(sample_path().read_bytes())
    damaged[500_000:500_100] = bytes(100)
    (tmp_path / "rain.nc").write_bytes(damaged)
    refused(tmp_path / "rain.nc", "that can be read, got .*(HDF error|truncated file)")


@pytest.mark.parametrize("form", [2, 3])
def test_a_damaged_zarr(form, tmp_path, rain_dataset):
    path = tmp_path / "rain.zarr"
    rain_dataset().to_zarr(path, zarr_format=form, consolidated=False)
    metadata = path / "rain" / (".zarray" if form == 2 else "zarr.json")
    chunk = max(
        (f for f in (path / "rain").rglob("*") if f.is_file() and f != metadata), key=lambda f: f.stat().st_size
    )
    kept = chunk.read_bytes()
    chunk.write_bytes(kept[: len(kept) // 2])
    refused(path, "that can be read")
    chunk.write_bytes(kept)
    open_frames(path)
    metadata.write_text("{")
    refused(path, "that can be read")


def test_an_array_where_a_group_should_be(tmp_path):
    zarr.create_array(tmp_path / "array.zarr", shape=(4, 4, 4), dtype="f4", zarr_format=2)
    refused(tmp_path / "array.zarr", "got a folder without Zarr metadata")


def test_a_variable_that_is_not_there(save, rain_dataset):
    refused(save(rain_dataset()), r"hail: expected a variable of the file \(rain\), got none", variables=("hail",))


def test_no_variable_at_all(save, rain_dataset):
    refused(
        save(rain_dataset().drop_vars("rain")), "variables: expected a variable over time, y and x, got no variable"
    )


def test_no_time_axis(save, rain_dataset):
    refused(
        save(rain_dataset().isel(time=0, drop=True)),
        r"rain: expected a time axis, got the dimensions \(y: 4, x: 6\). Pass its name as `time_dim`",
    )


def test_axes_that_cannot_be_told(save, rain_dataset):
    refused(save(rain_dataset(dims=("time", "a", "x"))), r"rain: expected a y axis, got .*. Pass its name as `y_dim`")


def test_one_dimension_too_many(save, rain_dataset):
    dataset = rain_dataset().expand_dims(level=3)
    refused(save(dataset), "rain: expected only the dimensions .* got level of size 3. Pass .* `--select level=0`")


def test_variables_on_two_grids(save, rain_dataset):
    dataset = rain_dataset()
    dataset["fine"] = (("time", "lat", "lon"), np.ones((5, 8, 12)))
    refused(save(dataset), "fine: expected the dimensions of rain", variables=("rain", "fine"))


def test_a_variable_without_numbers(save_netcdf, rain_dataset):
    dataset = rain_dataset()
    dataset["label"] = (("time", "y", "x"), np.full((5, 4, 6), "a"))
    refused(save_netcdf(dataset), "label: expected numbers, got values of type", variables=("label",))


def test_too_few_frames(save, rain_dataset):
    refused(save(rain_dataset().isel(time=slice(1))), "time: expected at least 2 frames, got 1")


def test_an_empty_grid(save_netcdf, rain_dataset, rain_counts):
    refused(save_netcdf(rain_dataset(rain_counts(3, 0, 4))), "rain: expected data, got sizes")


def test_times_out_of_order(save, rain_dataset):
    refused(
        save(rain_dataset(seconds=np.array([0, 300, 900, 600, 1200]))),
        r"time: expected times that increase .*, got 2018-05-10T00:10:00\S* in frame 3 after 2018-05-10T00:15:00\S* "
        r"in frame 2. Sort the file by time",
    )


def test_a_time_that_comes_twice(save, rain_dataset):
    refused(
        save(rain_dataset(seconds=np.array([0, 300, 300, 600, 900]))),
        r"got 2018-05-10T00:05:00\S* in frame 2 after 2018-05-10T00:05:00\S* in frame 1. Remove the duplicate",
    )


def test_a_time_that_is_missing(save_netcdf, rain_dataset):
    dataset = rain_dataset(seconds=np.array([0, 300, np.nan, 900, 1200]))
    refused(save_netcdf(dataset), "time: expected a time for every frame, got none for frame 2")


@pytest.mark.parametrize("units", ["fortnights since 2018-05-10", "seconds since the flood"])
def test_times_that_cannot_be_read(units, save_netcdf, rain_dataset):
    dataset = rain_dataset()
    dataset["time"].attrs["units"] = units
    refused(save_netcdf(dataset), f"time: expected times that can be read, got units '{units}'")


def test_missing_values_only(save, rain_dataset):
    refused(
        save(rain_dataset(np.full((5, 4, 6), -9999, np.int16))),
        "rain: expected at least one value, got missing values only",
    )


def test_a_size_that_is_declared_is_checked_before_it_is_read(tmp_path):
    with netCDF4.Dataset(tmp_path / "huge.nc", "w") as dataset:
        for dim, size in (("time", 10**6), ("y", 10**4), ("x", 10**4)):
            dataset.createDimension(dim, size)
        dataset.createVariable("rain", "f4", ("time", "y", "x"), chunksizes=(1, 1000, 1000), zlib=True)
    refused(
        tmp_path / "huge.nc", r"huge\.nc: expected at most 3.28e\+04 GiB, got 3.73e\+05 GiB declared", time_step=300
    )


def test_a_huge_index_is_refused_before_the_file_is_opened(tmp_path, rain_dataset):
    with netCDF4.Dataset(tmp_path / "huge.nc", "w") as dataset:
        dataset.createDimension("x", 10**13)
        dataset.createVariable("x", "f4", ("x",), chunksizes=(1000,), zlib=True)
    refused(tmp_path / "huge.nc", "expected at most 1 GiB")
    rain_dataset().to_zarr(tmp_path / "huge.zarr", zarr_format=2, consolidated=False)
    metadata = tmp_path / "huge.zarr" / "x" / ".zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"shape": [10**13]}))
    refused(tmp_path / "huge.zarr", "expected at most 1 GiB")


def test_a_chunk_is_limited_before_it_is_read(tmp_path, rain_dataset):
    path = tmp_path / "huge.zarr"
    rain_dataset().drop_vars(["y", "x"]).to_zarr(path, zarr_format=2, consolidated=False)
    metadata = path / "rain" / ".zarray"
    sizes = {"shape": [5, 10**5, 10**5], "chunks": [5, 10**5, 10**5]}
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | sizes))
    refused(path, r"huge\.zarr: expected chunks of rain of at most 1 GiB, got 93\.1 GiB")


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("where", ["x", "rain"])
def test_pickled_objects_are_refused_unread(where, tmp_path, rain_dataset):
    path, mark = tmp_path / "rain.zarr", tmp_path / "mark"
    rain_dataset().to_zarr(path, zarr_format=2, consolidated=False)
    metadata = path / where / ".zarray"
    options = json.loads(metadata.read_text())
    options |= {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": None}
    metadata.write_text(json.dumps(options))
    for chunk in (path / where).iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps(Payload(mark)))
    refused(path, r"\.zarray: expected codecs for numbers, got pickle, which executes code")
    assert not mark.exists()


def test_pickle_is_found_in_consolidated_and_nested_metadata(tmp_path, rain_dataset):
    path = tmp_path / "rain.zarr"
    rain_dataset().to_zarr(path, zarr_format=3, consolidated=False)
    metadata = path / "rain" / "zarr.json"
    options = json.loads(metadata.read_text())
    inner = {"name": "sharding_indexed", "configuration": {"codecs": [{"name": "numcodecs.pickle"}]}}
    metadata.write_text(json.dumps(options | {"codecs": [inner]}))
    refused(path, r"zarr\.json: expected codecs for numbers")
    shutil.rmtree(path)
    rain_dataset().to_zarr(path, zarr_format=2, consolidated=True)
    metadata = path / ".zmetadata"
    options = json.loads(metadata.read_text())
    options["metadata"]["rain/.zarray"]["filters"] = [{"id": "pickle"}]
    metadata.write_text(json.dumps(options))
    refused(path, r"\.zmetadata: expected codecs for numbers")


def test_an_attribute_may_speak_of_pickles(save, rain_dataset):
    dataset = rain_dataset()
    dataset["rain"].attrs["name"] = "pickle"
    assert open_frames(save(dataset)).variables == ("rain",)
