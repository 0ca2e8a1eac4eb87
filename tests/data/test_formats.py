"""Each kind of file is read value by value, at its place and time, or refused in one line."""

import gzip
import importlib
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from tests.data.radar_files import minutes, radolan_bytes, write_knmi, write_odim

from convlstm.data import dbz_to_mm_per_hour, open_frames
from convlstm.data.sources import open_dataset
from convlstm.data.spacing import grid_spacing
from convlstm.errors import DataError, DependencyError

NAN = np.nan
SHAPE = (3, 4, 6)


@pytest.fixture
def counts():
    """Numbers 0 to 71 over (time, y, x)."""
    return np.arange(72).reshape(SHAPE)


def read(path, **options):
    return open_frames(path, **options).read(slice(None))[:, 0]


def test_a_store_of_zarr_3_with_shards(tmp_path, rain_dataset, rain_counts):
    counts = rain_counts(12, 8, 8)
    rain_dataset(counts).to_zarr(
        tmp_path / "rain.zarr",
        zarr_format=3,
        encoding={"rain": {"chunks": (1, 4, 8), "shards": (4, 8, 8)}},
        consolidated=False,
    )
    array = zarr.open_group(tmp_path / "rain.zarr", mode="r")["rain"]
    assert (array.shards, array.chunks) == ((4, 8, 8), (1, 4, 8))
    frames = open_frames(tmp_path / "rain.zarr")
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], counts * 0.12, rtol=1e-6)


def test_odim_rates_of_opera(tmp_path, counts):
    packed = counts.astype(np.float64) / 4
    packed[1, 0, :2] = (-9999000, -8888000)
    for number, frame in enumerate(packed):
        codes = {"nodata": -9999000.0, "undetect": -8888000.0}
        write_odim(tmp_path / f"T_{number}.h5", frame, minutes(number, 15), gain=1.0, offset=0.0, **codes)
    frames = open_frames(tmp_path)
    assert (frames.variables, frames.units, frames.time_step) == (("RATE",), "mm/h", 900)
    assert frames.time.values[2] == np.datetime64("2018-05-13T00:30")
    packed[1, 0, :2] = (NAN, 0)
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], packed)
    assert frames.grid["crs"].attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"
    assert frames.grid.attrs["grid_mapping"] == "crs"
    np.testing.assert_allclose(frames.grid["x"], 1951e3 + 2e3 * np.arange(6), atol=0.01)
    np.testing.assert_allclose(frames.grid["y"], -2093e3 - 2e3 * np.arange(4), atol=0.01)


def test_odim_sums_over_their_own_period(tmp_path, counts):
    # sums over an hour, every five minutes
    for number, frame in enumerate(counts.astype(np.uint16)):
        write_odim(
            tmp_path / f"{number}.h5",
            frame,
            minutes(number),
            quantity="ACRR",
            period=60,
            gain=0.1,
            offset=-0.1,
            nodata=65535.0,
            undetect=0.0,
        )
    expected = np.maximum(counts * 0.1 - 0.1, 0)
    np.testing.assert_allclose(read(tmp_path), expected, atol=1e-6)


def test_odim_reflectivity_without_an_echo(tmp_path, counts):
    for number, frame in enumerate(counts.astype(np.uint8)):
        packing = {"gain": 0.5, "offset": -10.0, "nodata": 70.0, "undetect": 3.0}
        write_odim(tmp_path / f"{number}.hdf", frame, minutes(number), quantity="DBZH", **packing)
    expected = counts * 0.5 - 10
    expected[0, 0, 3], expected[2, 3, 4] = -32, NAN
    frames = open_frames(tmp_path)
    assert frames.units == "dBZ"
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], expected)
    rain = read(tmp_path, rain=True)
    np.testing.assert_allclose(rain, dbz_to_mm_per_hour(expected), rtol=1e-5)
    assert rain[0, 0, 3] < 0.001


def test_odim_on_latitudes_and_longitudes(tmp_path, counts):
    corners = {"LL_lon": 5.0, "LL_lat": 50.0, "UR_lon": 8.0, "UR_lat": 54.0}
    for number, frame in enumerate(counts.astype(float)):
        options = {"projection": "+proj=longlat +datum=WGS84", "corners": corners}
        write_odim(tmp_path / f"{number}.h5", frame, minutes(number), gain=1.0, offset=0.0, **options)
    frames = open_frames(tmp_path)
    np.testing.assert_allclose(frames.grid["x"], [5.25, 5.75, 6.25, 6.75, 7.25, 7.75])
    np.testing.assert_allclose(frames.grid["y"], [53.5, 52.5, 51.5, 50.5])


@pytest.mark.parametrize("kind", ["PVOL", "SCAN"])
def test_polar_volumes_are_refused(tmp_path, counts, kind):
    write_odim(tmp_path / "volume.h5", counts[0], minutes(0), kind=kind)
    with pytest.raises(DataError, match=rf"volume\.h5: expected a composite .* got an ODIM file of the object {kind}"):
        open_frames(tmp_path / "volume.h5")


def test_odim_without_rain_is_refused(tmp_path, counts):
    write_odim(tmp_path / "height.h5", counts[0], minutes(0), quantity="HGHT")
    with pytest.raises(DataError, match=r"expected a quantity of rain or reflectivity \(RATE, ACRR, DBZH, .*got HGHT"):
        open_frames(tmp_path / "height.h5")


def test_knmi_sums_of_rain(tmp_path, counts):
    packed = counts.astype(np.uint16)
    packed[1, 0, :2] = (65534, 65535)
    for number, frame in enumerate(packed):
        write_knmi(tmp_path / f"RAD_NL25_{number}.h5", frame, minutes(number))
    frames = open_frames(tmp_path)
    assert (frames.variables, frames.units) == (("precip",), "mm/h")
    assert frames.channels[0].packed.dtype == np.uint16
    expected = counts * 0.12
    expected[1, 0, :2] = NAN
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], expected, rtol=1e-6)
    assert frames.time.values[0] == np.datetime64("2018-05-13T00:00")
    np.testing.assert_allclose(frames.grid["x"][:2], [0.5, 1.5])
    np.testing.assert_allclose(frames.grid["y"][:2], [-3650.5, -3651.5])
    assert grid_spacing(frames.grid, "y", "x") == pytest.approx(1000)
    assert frames.grid["crs"].attrs["semi_major_axis"] == pytest.approx(6378140)


def test_knmi_reflectivity_with_a_code_of_0(tmp_path, counts):
    for number, frame in enumerate(counts.astype(np.uint8)):
        options = {"parameter": "REFLECTIVITY_[DBZ]", "formula": "GEO = 0.500000 * PV + -32.000000", "codes": (0, 255)}
        write_knmi(tmp_path / f"{number}.h5", frame, minutes(number), **options)
    expected = counts * 0.5 - 32
    expected[0, 0, 0] = NAN
    np.testing.assert_allclose(read(tmp_path), expected)


@pytest.mark.parametrize(
    ("product", "interval", "per_hour"), [("YW", "   5", 12), ("RW", "  60", 1), ("SF", "   1U1", 1 / 24)]
)
def test_radolan_sums_with_their_flags(tmp_path, product, interval, per_hour):
    values = np.zeros((3, 900, 900), np.uint16)
    values[:, 0, :5] = [7, 4095, 0x2000 | 2500, 0x8000 | 3, 0x1000 | 9]
    values[:, 899, 899] = 11
    for number, frame in enumerate(values):
        content = radolan_bytes(frame, minutes(number), product=product, interval=interval)
        (tmp_path / f"raa01-{product.lower()}_10000-{number}-dwd---bin").write_bytes(content)
    frames = open_frames(tmp_path)
    assert (frames.variables, frames.units, frames.shape) == ((product,), "mm/h", (3, 1, 900, 900))
    rain = frames.read(slice(1, 2))[0, 0]
    np.testing.assert_allclose(rain[0, :6], np.array([7, 4095, NAN, NAN, 9, 0]) * 0.01 * per_hour, rtol=1e-6)
    np.testing.assert_allclose(rain[899, 899], 0.11 * per_hour, rtol=1e-6)
    assert frames.time.values[1] == np.datetime64("2018-05-13T00:05")
    # the lower left corner as DWD publishes it
    np.testing.assert_allclose(frames.grid["x"][0] - 500, -523462.2, atol=0.1)
    np.testing.assert_allclose(frames.grid["y"][0] - 500, -4658644.7, atol=0.1)
    assert frames.grid["crs"].attrs["grid_mapping_name"] == "polar_stereographic"


def test_radolan_reflectivity(tmp_path):
    values = np.zeros((2, 900, 900), np.uint8)
    values[:, 0, :4] = [100, 249, 250, 1]
    for number, frame in enumerate(values):
        (tmp_path / f"rx{number}").write_bytes(radolan_bytes(frame, minutes(number), product="RX"))
    frames = open_frames(tmp_path)
    assert frames.units == "dBZ"
    np.testing.assert_allclose(frames.read(slice(1))[0, 0, 0, :5], [17.5, NAN, NAN, -32, -32.5])


def test_radolan_forecasts_have_valid_times(tmp_path):
    values = np.ones((900, 900), np.uint16)
    for lead in (0, 5, 10):
        (tmp_path / f"rv{lead:03d}").write_bytes(radolan_bytes(values, minutes(0), product="RV", lead=lead))
    assert open_frames(tmp_path).time.values[2] == np.datetime64("2018-05-13T00:10")


def test_radolan_that_cannot_be_read(tmp_path):
    values = np.ones((900, 900), np.uint16)
    whole = radolan_bytes(values, minutes(0))
    for content, message in (
        (whole[:-1], "expected 16201.. bytes, as its header says, got 16201.. bytes. Download"),
        (whole.replace(b"YW", b"PG", 1), "expected a RADOLAN product of RY, .* got PG"),
        (whole.replace(b"GP 900x 900", b"GP 901x 900"), "expected a grid of 450 × 450, .*got 901 × 900"),
        (whole.replace(b"PR E-02", b"PR     "), "expected a RADOLAN header with PR, INT and GP"),
    ):
        (tmp_path / "yw").write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_frames(tmp_path / "yw")


def test_a_file_of_no_known_kind_says_which_are_read(tmp_path):
    (tmp_path / "rain.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError, match=r"a kind that is read \(NetCDF, Zarr, ODIM HDF5, KNMI HDF5, GRIB, RADOLAN\)"):
        open_frames(tmp_path / "rain.npy")
    (tmp_path / "rain.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"got an archive of files. Unpack it first"):
        open_frames(tmp_path / "rain.zip")


def hide(monkeypatch, hidden):
    """Let the import of a package fail as if it were not installed."""

    def load(name):
        if name == hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importlib.import_module(name)

    monkeypatch.setattr("convlstm.data.formats.packages.import_module", load)


def grib_message(values, step, *, short_name="tp", date=20180513):
    """A GRIB 2 message on 4 × 6 latitudes and longitudes; NaN is missing."""
    eccodes = pytest.importorskip("eccodes")
    message = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
    keys = {
        "Ni": 6,
        "Nj": 4,
        "latitudeOfFirstGridPointInDegrees": 53,
        "longitudeOfFirstGridPointInDegrees": 5,
        "latitudeOfLastGridPointInDegrees": 50,
        "longitudeOfLastGridPointInDegrees": 10,
        "iDirectionIncrementInDegrees": 1,
        "jDirectionIncrementInDegrees": 1,
        "dataDate": date,
        "dataTime": 0,
        "typeOfLevel": "surface",
        "shortName": short_name,
        "stepRange": f"0-{step}",
        "bitmapPresent": 1,
        "missingValue": 9999,
        "bitsPerValue": 24,
    }
    for key, value in keys.items():
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, np.nan_to_num(values, nan=9999).ravel())
    content = eccodes.codes_get_message(message)
    eccodes.codes_release(message)
    return content


def test_grib_sums_since_the_start_of_a_forecast(tmp_path, counts):
    pytest.importorskip("cfgrib")
    sums = np.cumsum(counts + 1.0, axis=0) / 1000
    sums[:, 1, 1] = NAN
    (tmp_path / "tp.grib2").write_bytes(b"".join(grib_message(sums[n], n + 1) for n in range(3)))
    with pytest.raises(DataError, match="--accumulated"):
        open_frames(tmp_path / "tp.grib2")
    frames = open_frames(tmp_path / "tp.grib2", accumulated=True)
    assert (frames.variables, frames.units, frames.time_dim) == (("tp",), "mm/h", "time")
    assert frames.time.values[0] == np.datetime64("2018-05-13T02:00")
    expected = counts[1:] + 1.0
    expected[:, 1, 1] = NAN
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], expected, rtol=1e-3)
    np.testing.assert_array_equal(frames.grid["latitude"], [53, 52, 51, 50])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tp.grib2"]  # no index file


def test_grib_with_one_file_for_each_step(tmp_path, counts):
    pytest.importorskip("cfgrib")
    for n in range(3):
        (tmp_path / f"{n}.grb2.gz").write_bytes(gzip.compress(grib_message(counts[n] / 1000, n + 1)))
    frames = open_frames(tmp_path, accumulated=False)
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], counts, atol=1e-4)
    assert frames.time_step == 3600


def test_grib_forecasts_from_several_times_need_a_selection(tmp_path, counts):
    pytest.importorskip("cfgrib")
    messages = [
        grib_message(counts[step - 1] + 100 * day, step, date=20180513 + day) for day in (0, 1) for step in (1, 2, 3)
    ]
    (tmp_path / "tp.grib").write_bytes(b"".join(messages))
    with pytest.raises(DataError, match=r"--select forecast_reference_time="):
        open_frames(tmp_path / "tp.grib", accumulated=False)
    values = read(tmp_path / "tp.grib", accumulated=False, select={"forecast_reference_time": "2018-05-14T00:00"})
    np.testing.assert_allclose(values, (counts + 100) * 1000, rtol=1e-4)


def test_a_damaged_grib_file(tmp_path):
    pytest.importorskip("cfgrib")
    (tmp_path / "tp.grib2").write_bytes(grib_message(np.ones((4, 6)), 1)[:60])
    with pytest.raises(DataError, match=r"tp\.grib2: expected GRIB messages of one grid"):
        open_frames(tmp_path / "tp.grib2")


def test_a_grib_message_that_declares_too_much(tmp_path):
    pytest.importorskip("cfgrib")
    (tmp_path / "tp.grib2").write_bytes(grib_message(np.ones((4, 6)), 1))
    with pytest.raises(DataError, match="expected at most"):
        open_dataset(tmp_path / "tp.grib2", 100)


@pytest.mark.parametrize(
    ("package", "extra", "name"),
    [("cfgrib", "grib", "a.grib2"), ("h5py", "radar", "a.h5"), ("pyproj", "radar", "a.h5")],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, counts, monkeypatch, package, extra, name):
    if name.endswith("h5"):
        write_odim(tmp_path / name, counts[0], minutes(0))
    else:
        (tmp_path / name).write_bytes(b"GRIB" + bytes(100))
    hide(monkeypatch, package)
    with pytest.raises(
        DependencyError, match=rf"{name}: expected {package} installed, .* Run: pip install '.*\[{extra}\]'"
    ):
        open_frames(tmp_path / name)


@pytest.mark.parametrize("fault", ["external link", "soft link", "external storage", "virtual"])
def test_hdf5_that_leads_to_another_file_is_refused(tmp_path, counts, fault):
    secret = write_odim(tmp_path / "secret", counts[0], minutes(0))
    path = write_odim(tmp_path / "rain.h5", counts[0].astype("f4"), minutes(0), gain=1.0, offset=0.0)
    with h5py.File(path, "r+") as file:
        data = file["dataset1/data1"]
        del data["data"]
        if fault == "external link":
            data["data"] = h5py.ExternalLink(str(secret), "/dataset1/data1/data")
        elif fault == "soft link":
            data["data"] = h5py.SoftLink("/dataset1/data1/quality1/data")
        elif fault == "external storage":
            data.create_dataset("data", (4, 6), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((4, 6), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "dataset1/data1/data", (4, 6))
            data.create_virtual_dataset("data", layout)
    with pytest.raises(DataError, match=r"rain\.h5: expected groups and data of this file only, got (the link|/data)"):
        open_frames(path)


def test_a_size_that_hdf5_declares_is_checked_before_it_is_read(tmp_path, counts):
    path = write_odim(tmp_path / "rain.h5", counts[0], minutes(0))
    with h5py.File(path, "r+") as file:
        del file["dataset1/data1/data"]
        file["dataset1/data1"].create_dataset("data", (10**6, 10**6), "f4", chunks=(1000, 1000))
    with pytest.raises(DataError, match=r"rain\.h5: expected at most 16? GiB, got .* declared"):
        open_frames(path)


def test_a_link_that_leaves_a_zarr_store_is_refused(tmp_path, rain_dataset):
    store = tmp_path / "rain.zarr"
    rain_dataset().to_zarr(store, zarr_format=2, consolidated=False)
    chunk = next(path for path in (store / "rain").iterdir() if not path.name.startswith("."))
    chunk.rename(store / "elsewhere")
    chunk.symlink_to(store / "elsewhere")
    assert open_frames(store).shape == (5, 1, 4, 6)  # a link inside
    (store / "elsewhere").rename(tmp_path / "outside")
    chunk.unlink()
    chunk.symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=r"rain\.zarr: expected files inside the store, got the link rain/0.* outside"):
        open_frames(store)


def test_netcdf_4_with_the_suffix_h5(tmp_path, rain_dataset, rain_counts):
    rain_dataset().to_netcdf(tmp_path / "rain.h5", engine="netcdf4")
    np.testing.assert_allclose(read(tmp_path / "rain.h5"), rain_counts() * 0.12, rtol=1e-6)
    assert isinstance(xr.open_dataset(tmp_path / "rain.h5"), xr.Dataset)


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, counts, rain_dataset):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    examples = [example for example in re.findall(r"\| `(open_frames\(.*?\))` \|", page) if "https" not in example]
    monkeypatch.chdir(tmp_path)
    for name in ("odim", "knmi", "radolan"):
        (tmp_path / name).mkdir()
    for n in range(2):
        write_odim(f"odim/{n}.h5", counts[n].astype(float), minutes(n), gain=1.0, offset=0.0)
        write_knmi(f"knmi/{n}.h5", counts[n].astype(np.uint16), minutes(n))
        Path(f"radolan/{n}").write_bytes(radolan_bytes(np.ones((900, 900), np.uint16), minutes(n)))
    Path("tp.grib2").write_bytes(b"".join(grib_message(counts[n] / 100, n + 1) for n in range(2, -1, -1)))
    rain_dataset().to_netcdf("rain.nc")
    rain_dataset().to_zarr("rain.zarr", zarr_format=3, consolidated=False)
    Path("rain.nc.gz").write_bytes(gzip.compress(Path("rain.nc").read_bytes()))
    assert len(examples) == 7
    for example in examples:
        assert eval(example, {"open_frames": open_frames}).units == "mm/h"  # noqa: S307 (our own page)
