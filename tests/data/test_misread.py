"""Data that would be misread without a question: each is read right, or refused with the option that settles it."""

import numpy as np
import pytest
import xarray as xr
import zarr

from convlstm.data import open_frames
from convlstm.errors import DataError

FRAMES = 30


@pytest.fixture
def showers():
    """Drifting rain in mm/h (time, y, x), with dry cells in every frame."""
    y, x = np.mgrid[:12, :14]
    rain = [4 * np.exp(-((y - 2 - 0.3 * n) ** 2 + (x - 2 - 0.3 * n) ** 2) / 8) - 0.2 for n in range(FRAMES)]
    return np.maximum(rain, 0).astype(np.float32)


@pytest.fixture
def written(tmp_path):
    """Write values every five minutes under a name, with attributes, and return the path."""

    def write(values, name, seconds=None, **attrs):
        seconds = np.arange(len(values)) * 300 if seconds is None else seconds
        time = ("time", seconds, {"units": "seconds since 2018-05-10"})
        dataset = xr.Dataset({name: (("time", "y", "x"), values, attrs)}, coords={"time": time})
        dataset.to_netcdf(tmp_path / "data.nc")
        return tmp_path / "data.nc"

    return write


def read(path, **options):
    return open_frames(path, **options).read(slice(None))[:, 0]


@pytest.mark.parametrize(
    ("name", "units", "factor"),
    [("a", "mm/5min", 12), ("a", "mm (5min)-1", 12), ("rr5", "mm", 12), ("rr", "kg m-2 s-1", 3600), ("tp", "m", 12000)],
)
def test_rain_in_each_unit(showers, written, name, units, factor):
    np.testing.assert_allclose(read(written(showers / factor, name, units=units)), showers, rtol=1e-5)


def accumulated(rain, reset=()):
    """Sums of rain in m since the start, or since the frames of a reset."""
    sums, total = [], np.zeros(rain.shape[1:])
    for n, rate in enumerate(rain):
        total = rate / 12000 if n in reset else total + rate / 12000
        sums.append(total)
    return np.stack(sums)


@pytest.mark.parametrize("reset", [(), (11,), (6, 12, 18, 24)])
def test_sums_since_a_start_are_refused_or_differenced(showers, written, reset):
    path = written(accumulated(showers, reset), "tp", units="m")
    with pytest.raises(DataError, match=r"tp: expected sums of rain over one time step.*--accumulated.*--no-accumul"):
        open_frames(path)
    frames = open_frames(path, accumulated=True)
    assert frames.shape == (FRAMES - 1, 1, 12, 14)
    assert frames.time.values[0] == np.datetime64("2018-05-10T00:05")
    assert frames.seconds[0] == 0
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], showers[1:], atol=1e-4)
    part = frames.read(np.array([20, 3]), (slice(2, 5), slice(4)))[:, 0]
    np.testing.assert_allclose(part, showers[[21, 4], 2:5, :4], atol=1e-4)


def test_packed_sums_since_a_start_may_decrease_by_one_packed_number(showers, written):
    counts = np.round(accumulated(showers) * 1000 / 0.01).astype(np.int32)
    counts[::2] -= counts[::2] > 0  # rounding down in every second frame
    path = written(counts, "tp", units="mm", scale_factor=0.01)
    with pytest.raises(DataError, match="--accumulated"):
        open_frames(path)
    values = read(path, accumulated=True)
    assert (values >= 0).all()
    np.testing.assert_allclose(values, showers[1:], atol=0.02 * 12 + 1e-6)


def packed_in_16_bits(sums):
    """Unpacked values of GRIB messages: each frame has its own minimum and a power of two between numbers."""
    frames = []
    for frame in sums:
        spacing = 2.0 ** np.ceil(np.log2(np.ptp(frame) / 65535))
        frames.append(frame.min() + np.round((frame - frame.min()) / spacing) * spacing)
    return np.stack(frames).astype(np.float32)


def test_sums_that_decrease_by_the_rounding_of_grib_are_sums_since_a_start(showers, written):
    sums = packed_in_16_bits(accumulated(showers) + 0.001 * np.random.default_rng(0).random((12, 14)))
    assert np.diff(sums, axis=0).min() < -1e-6 * sums.max()
    with pytest.raises(DataError, match="--accumulated"):
        open_frames(written(sums, "tp", units="m"))


@pytest.mark.parametrize("frames", [[5, 6], [5, 6, 7, 8, 9], [5, 6, 7, 7, 8, 9]])
def test_a_few_sums_of_a_model_since_a_start_are_refused(showers, written, frames):
    sums = accumulated(showers)[frames]
    with pytest.raises(DataError, match="--accumulated"):
        open_frames(written(sums, "tp", units="m"))
    assert open_frames(written(sums, "rr", units="mm")).units == "mm/h"
    with pytest.raises(DataError, match="--accumulated"):
        open_frames(written(sums + 0.001, "rr", units="mm"))


def test_a_few_sums_over_one_step_are_no_sums_since_a_start(showers, written):
    np.testing.assert_allclose(read(written(showers[5:10] / 12000, "tp", units="m")), showers[5:10], rtol=1e-5)


def test_a_shorter_time_step_hides_no_increase(showers, written):
    path = written(accumulated(showers), "tp", units="m")
    np.testing.assert_allclose(read(path, accumulated=True, time_step=150), showers[1:], atol=1e-4)


def test_sums_without_a_known_increase_are_refused(showers, written):
    sums = accumulated(showers)
    sums[::2] = np.nan
    with pytest.raises(DataError, match="tp: expected two sums in a row with a value"):
        open_frames(written(sums, "tp", units="m"), accumulated=True)


@pytest.mark.parametrize("reset", [(), (11,)])
def test_the_increase_over_a_gap_is_missing(showers, written, reset):
    kept = np.r_[0:10, 12:FRAMES]
    values = read(written(accumulated(showers, reset)[kept], "tp", kept * 300, units="m"), accumulated=True)
    assert np.isnan(values[9]).all()
    np.testing.assert_allclose(np.delete(values, 9, axis=0), np.delete(showers[kept], [0, 10], axis=0), atol=1e-4)


def test_a_missing_sum_hides_two_increases(showers, written):
    sums = accumulated(showers)
    sums[8, 3, 3] = np.nan
    values = read(written(sums, "tp", units="m"), accumulated=True)
    assert np.argwhere(np.isnan(values)).tolist() == [[7, 3, 3], [8, 3, 3]]


def test_sums_over_one_step_are_no_sums_since_a_start(showers, written):
    rain_starts = np.concatenate([np.zeros((20, 12, 14), np.float32), showers])
    np.testing.assert_allclose(read(written(rain_starts / 12, "rr5", units="mm")), rain_starts, rtol=1e-5)


def test_the_caller_says_that_growing_sums_are_over_one_step(written):
    growing = np.arange(FRAMES, dtype=np.float32)[:, None, None] * np.ones((4, 4), np.float32)
    np.testing.assert_allclose(read(written(growing, "rr", units="mm"), accumulated=False), growing * 12)


def test_differences_of_what_is_no_sum_are_refused(showers, written):
    with pytest.raises(DataError, match=r"accumulated: expected a variable with sums of rain.*got rr in mm/h"):
        open_frames(written(showers, "rr", units="mm/h"), accumulated=True)


@pytest.mark.parametrize("code", [-1, -9, -999, -9999])
def test_negative_rain_is_refused_or_missing(showers, written, code):
    showers[:, :3] = code
    path = written(showers / 12, "rr", units="mm/5min")
    in_file = f"{np.float32(code / 12):.6g}"
    with pytest.raises(DataError, match=rf"rr: expected values of at least 0 mm/5min for rain, got {in_file}"):
        open_frames(path)
    path = written(showers, "rr", units="mm/h")
    with pytest.raises(DataError, match=rf"got {code}\. Pass `--missing={code}`"):
        open_frames(path)
    values = read(path, missing=(code,))
    assert np.isnan(values[:, :3]).all()
    np.testing.assert_array_equal(values[:, 3:], showers[:, 3:])
    assert read(path, missing=()).min() == code


@pytest.mark.parametrize(
    ("units", "code"), [("mm/h", -3.4028235e38), ("mm/5min", -1 / 3), ("kg m-2 s-1", -1.23456789e-4)]
)
def test_the_hint_for_negative_rain_can_be_followed(showers, written, units, code):
    showers[:, 0] = code
    path = written(showers, "rr", units=units)
    with pytest.raises(DataError, match="--missing=") as caught:
        open_frames(path)
    value = float(str(caught.value).partition("--missing=")[2].partition("`")[0])
    assert np.isnan(read(path, missing=(value,))[:, 0]).all()


def test_the_hint_for_packed_negative_rain_has_few_digits(written):
    counts = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = written(counts, "rr", units="mm/h", scale_factor=0.1, add_offset=-0.3)
    with pytest.raises(DataError, match=r"got -0\.3\. Pass `--missing=-0\.3`"):
        open_frames(path)
    assert np.isnan(read(path, missing=(-0.3, -0.2, -0.1))).sum() == 3


def test_small_negative_rain_is_read_as_the_hint_says(showers, written):
    rates = showers / 3600
    rates[0, 0], rates[1, 0] = -5e-6, -4e-6
    path = written(rates, "rr", units="kg m-2 s-1")
    with pytest.raises(DataError, match="or `--missing none` if these are small negative values"):
        open_frames(path)
    np.testing.assert_allclose(read(path, missing=()), rates * 3600, rtol=1e-5)


def test_noise_of_packing_is_no_negative_rain(showers, written):
    np.testing.assert_allclose(read(written(showers - 1e-4, "rr", units="mm/h")), showers - 1e-4, atol=1e-6)


def test_a_code_in_packed_numbers_is_a_value_in_the_unit_of_the_file(written):
    counts = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    values = read(written(counts, "t", units="K", scale_factor=0.1, add_offset=250.0), missing=(250.3, 251))
    assert np.flatnonzero(np.isnan(values)).tolist() == [3, 10]


@pytest.mark.parametrize("code", [-999, -9999, -32768])
def test_a_code_far_below_all_other_values_is_refused_or_missing(showers, written, code):
    air = 280 + showers
    air[:, 0] = code
    path = written(air, "t2m", units="K")
    with pytest.raises(DataError, match=rf"t2m: expected values of one range.*{code} far below.*`--missing={code}`"):
        open_frames(path)
    assert np.isnan(read(path, missing=(code,))[:, 0]).all()
    assert read(path, missing=()).min() == code


@pytest.mark.parametrize(("units", "least", "largest"), [("dBZ", -32, 60), ("degC", -30, 40)])
def test_a_code_at_a_gap_smaller_than_the_range_is_refused(written, units, least, largest):
    values = np.random.default_rng(0).uniform(least, largest, (4, 12, 14)).astype(np.float32)
    values[:, 0] = -99
    with pytest.raises(DataError, match="-99 far below all other values"):
        open_frames(written(values, "a", units=units))


def test_a_second_code_is_refused_after_the_first_is_named(showers, written):
    air = 280 + showers
    air[:, 0], air[:, 1] = -9999, -999
    path = written(air, "t2m", units="K")
    with pytest.raises(DataError, match="--missing=-9999"):
        open_frames(path)
    with pytest.raises(
        DataError, match=r"--missing=-999`.*declare -9999 as `missing_value` in the file and pass `--missing none`"
    ):
        open_frames(path, missing=(-9999,))
    assert np.isnan(read(path, missing=(-9999, -999))[:, :2]).all()
    values = read(written(air, "t2m", units="K", missing_value=np.float32(-9999)), missing=())
    assert np.isnan(values[:, 0]).all()
    assert (values[:, 1] == -999).all()


def test_a_value_within_the_range_of_others_is_no_code(showers, written):
    depth = showers * 1000 - 999
    assert read(written(depth, "depth", units="m")).min() == -999


def test_reflectivity_without_echo_is_no_code_and_becomes_rain_by_option(showers, written):
    dbz = np.where(showers > 0.1, 23.0103 + 16 * np.log10(np.maximum(showers, 0.1)), -32).astype(np.float32)
    path = written(dbz, "z", units="dBZ")
    np.testing.assert_array_equal(read(path), dbz)
    frames = open_frames(path, rain=True)
    assert frames.units == "mm/h"
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], np.where(showers > 0.1, showers, 0), atol=1e-3)
    dbz[:, 0] = -9999
    with pytest.raises(DataError, match="--missing=-9999"):
        open_frames(written(dbz, "z", units="dBZ"), rain=True)


@pytest.fixture
def written_zarr(tmp_path):
    """Write values in Zarr format 2, whose arrays have Zarr's default fill value 0."""

    def write(values, name, **attrs):
        group = zarr.open_group(tmp_path / "data.zarr", mode="w", zarr_format=2)
        arrays = {name: (values, ["time", "y", "x"]), "time": (np.arange(FRAMES) * 300, ["time"])}
        arrays |= {"y": (np.arange(12.0) * 1000, ["y"]), "x": (np.arange(14.0) * 1000, ["x"])}
        for array, (numbers, dims) in arrays.items():
            group.create_array(array, data=numbers, fill_value=0).attrs["_ARRAY_DIMENSIONS"] = dims
        group[name].attrs.update(attrs)
        group["time"].attrs["units"] = "seconds since 2018-05-10"
        return tmp_path / "data.zarr"

    return write


@pytest.fixture
def zarr_default(showers, written_zarr):
    """Rain in Zarr format 2 with the default fill value."""
    return written_zarr(showers, "rr", units="mm/h")


def test_the_default_fill_value_of_zarr_is_a_value(zarr_default, showers):
    frames = open_frames(zarr_default)
    np.testing.assert_array_equal(frames.read(slice(None))[:, 0], showers)
    assert frames.time.values[0] == np.datetime64("2018-05-10")
    assert (frames.grid["y"].values[0], frames.grid["x"].values[0]) == (0, 0)


def test_zero_is_missing_in_zarr_where_the_file_or_the_caller_says_so(zarr_default, showers):
    np.testing.assert_array_equal(np.isnan(read(zarr_default, missing=(0,))), showers == 0)
    zarr.open_group(zarr_default)["rr"].attrs["missing_value"] = 0
    np.testing.assert_array_equal(np.isnan(read(zarr_default)), showers == 0)


def test_a_temperature_of_0_in_zarr_is_asked_for(showers, written_zarr):
    air = np.round(showers - 1)
    path = written_zarr(air, "t2m", units="degC")
    with pytest.raises(DataError, match=r"t2m: expected a number for no data other than 0.*`--missing=0`.*none`"):
        open_frames(path)
    np.testing.assert_array_equal(np.isnan(read(path, missing=(0,))), air == 0)
    for missing in ((), (-99,)):
        np.testing.assert_array_equal(read(path, missing=missing), air)
    assert not np.isnan(read(written_zarr(280 + air, "t2m", units="K"))).any()


@pytest.mark.parametrize("rain", [None, True])
def test_the_packed_number_0_of_reflectivity_in_zarr_stays_missing(showers, written_zarr, rain):
    counts = np.round(showers * 20).astype(np.uint8)
    path = written_zarr(counts, "z", units="dBZ", add_offset=-32.0)
    np.testing.assert_array_equal(np.isnan(read(path, rain=rain)), counts == 0)


TEXTS = {
    "ISO 8601": "2018-05-10T{:02}:{:02}:00",
    "UTC": "2018-05-10T{:02}:{:02}Z",
    "offset": "2018-05-10T{:02}:{:02}+00:00",
    "WRF": "2018-05-10_{:02}:{:02}:00",
    "digits": "20180510{:02}{:02}",
    "digits to the second": "20180510{:02}{:02}00",
    "digits with space": "20180510 {:02}{:02}",
}


@pytest.mark.parametrize("form", TEXTS)
@pytest.mark.parametrize("kind", ["str", "bytes"])
@pytest.mark.parametrize("name", ["time", "Times"])
def test_times_as_text(showers, tmp_path, form, kind, name):
    texts = [TEXTS[form].format(n // 12, 5 * n % 60) for n in range(FRAMES)]
    values = np.array(texts, dtype="S" if kind == "bytes" else object)
    dataset = xr.Dataset({"rr": (("time", "y", "x"), showers, {"units": "mm/h"}), name: ("time", values)})
    dataset.to_netcdf(tmp_path / "data.nc")
    frames = open_frames(tmp_path / "data.nc")
    assert frames.time_step == 300
    assert [str(time)[:16] for time in frames.time.values[[0, 29]]] == ["2018-05-10T00:00", "2018-05-10T02:25"]


@pytest.fixture
def written_text(showers, tmp_path):
    """Write showers with a variable of texts along the time."""

    def write(name, texts):
        dataset = xr.Dataset({"rr": (("time", "y", "x"), showers, {"units": "mm/h"}), name: ("time", texts)})
        dataset.to_netcdf(tmp_path / "data.nc")
        return tmp_path / "data.nc"

    return write


def test_ten_digits_are_a_date_and_an_hour(written_text):
    frames = open_frames(written_text("time", [f"201805{13 + n // 24}{n % 24:02}" for n in range(FRAMES)]))
    assert frames.time_step == 3600
    assert [str(time)[:16] for time in frames.time.values[[12, 29]]] == ["2018-05-13T12:00", "2018-05-14T05:00"]


def test_texts_of_digits_in_two_lengths_are_refused(written_text):
    texts = [f"2018051300{n:02}" for n in range(FRAMES)]
    texts[7] += "00"
    with pytest.raises(DataError, match="got '20180513000700' for frame 7"):
        open_frames(written_text("time", texts), time_step=300)


def test_text_that_is_no_time_is_refused_without_a_time_step(written_text):
    path = written_text("time", [f"frame {n}" for n in range(FRAMES)])
    with pytest.raises(DataError, match=r"time: expected times such as .*got 'frame 0' for frame 0"):
        open_frames(path)
    assert open_frames(path, time_step=300).seconds[-1] == 300 * (FRAMES - 1)


def test_texts_of_another_name_are_no_times(written_text):
    path = written_text("filename", [f"radar_{n}.h5" for n in range(FRAMES)])
    assert open_frames(path, time_step=300).time_step == 300
    with pytest.raises(DataError, match=r"time: expected times with a unit .*Pass `time_step`"):
        open_frames(path)
