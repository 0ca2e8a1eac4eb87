"""`s3://` addresses, read from a server of moto. These packages do not fit the pins of development."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr

from convlstm.data import open_frames, sample_path
from convlstm.errors import DataError

s3fs = pytest.importorskip("s3fs")
conf = pytest.importorskip("fsspec.config").conf
pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def bucket() -> Iterator[object]:
    """The file system of a server with an empty bucket `rain`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL)
    address = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "eu-west-1"}
    options = {"key": "key", "secret": "secret", "client_kwargs": address}
    try:
        files = s3fs.S3FileSystem(**options)
        for _ in range(100):
            try:
                files.mkdir("rain")
                break
            except OSError:
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(conf, "s3", options)  # as the variable FSSPEC_S3, which is read once
            yield files
    finally:
        server.kill()
        server.wait()


def test_files_patterns_folders_and_stores_of_a_bucket(bucket, tmp_path):
    with xr.open_dataset(sample_path(), decode_times=False) as sample:
        for name, frames in (("a", slice(30)), ("b", slice(30, 60))):
            sample.isel(time=frames).to_netcdf(tmp_path / f"{name}.nc")
            bucket.put(str(tmp_path / f"{name}.nc"), f"rain/parts/{name}.nc")
        sample.isel(time=slice(60)).drop_encoding().to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    bucket.put(str(tmp_path / "s.zarr"), "rain/s.zarr", recursive=True)
    expected = open_frames(sample_path()).read(slice(60))
    np.testing.assert_array_equal(open_frames("s3://rain/parts/a.nc").read(slice(30)), expected[:30])
    for address in ("s3://rain/parts/*.nc", "s3://rain/parts", ["s3://rain/parts/a.nc", "s3://rain/parts/b.nc"]):
        np.testing.assert_array_equal(open_frames(address).read(slice(60)), expected)
    store = open_frames(tmp_path / "s.zarr").read(slice(60))
    np.testing.assert_array_equal(open_frames("s3://rain/s.zarr").read(slice(60)), store)


def test_an_object_that_is_not_there_is_one_line(bucket):
    with pytest.raises(DataError, match=r"s3://rain/none\.nc: expected an address that answers"):
        open_frames("s3://rain/none.nc")
