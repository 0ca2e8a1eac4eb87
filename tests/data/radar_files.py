"""Files of radar products as their centres write them, with small grids."""

from datetime import datetime, timedelta

import h5py
import numpy as np
import pyproj

OPERA = "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=1950000.0 +y_0=-2100000.0 +units=m +ellps=WGS84"
KNMI = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.14 +b=6356.75 +x_0=0 y_0=0"
START = datetime(2018, 5, 13)


def minutes(number, step=5):
    return START + timedelta(minutes=step * number)


def _write(group, **attrs):
    for name, value in attrs.items():
        group.attrs[name] = np.bytes_(value) if isinstance(value, str) else value


def write_odim(
    path, packed, time, *, quantity="RATE", kind="COMP", period=15, projection=OPERA, corners=None, **packing
):
    """A composite as OPERA writes it; `packing` has gain, offset, nodata and undetect."""
    if corners is None:  # cells of 2 km, from the origin of the projection
        right, top = pyproj.Proj(OPERA)(1950e3 + 2e3 * packed.shape[1], -2100e3 + 2e3 * packed.shape[0], inverse=True)
        corners = {"LL_lon": 10.0, "LL_lat": 55.0, "UR_lon": right, "UR_lat": top}
    start = time - timedelta(minutes=period)
    with h5py.File(path, "w") as file:
        _write(file, Conventions="ODIM_H5/V2_2")
        _write(
            file.create_group("what"),
            object=kind,
            version="H5rad 2.2",
            date=f"{time:%Y%m%d}",
            time=f"{time:%H%M%S}",
            source="ORG:247",
        )
        rows, columns = packed.shape
        _write(file.create_group("where"), projdef=projection, xsize=columns, ysize=rows, **corners)
        dataset = file.create_group("dataset1")
        _write(
            dataset.create_group("what"),
            product="COMP",
            startdate=f"{start:%Y%m%d}",
            starttime=f"{start:%H%M%S}",
            enddate=f"{time:%Y%m%d}",
            endtime=f"{time:%H%M%S}",
        )
        data = dataset.create_group("data1")
        _write(data.create_group("what"), quantity=quantity, **packing)
        data.create_dataset("data", data=packed, compression="gzip", compression_opts=6)
        quality = data.create_group("quality1")
        _write(quality.create_group("what"), quantity="QIND")
        quality.create_dataset("data", data=np.ones(packed.shape))
    return path


def write_knmi(
    path, packed, time, *, parameter="PRECIP_[MM]", formula="GEO=0.010000*PV+0.000000", codes=(65534, 65535)
):
    """A composite as the data platform of KNMI has it: rain, and a second image with its quality."""
    start = time - timedelta(minutes=5)
    with h5py.File(path, "w") as file:
        form = "%d-%b-%Y;%H:%M:%S.000"
        _write(
            file.create_group("overview"),
            product_group_name="RAD_NL25_RAC_RT_5min",
            product_datetime_start=start.strftime(form).upper(),
            product_datetime_end=time.strftime(form).upper(),
            number_image_groups=2,
        )
        geographic = file.create_group("geographic")
        _write(
            geographic,
            geo_dim_pixel="KM,KM",
            geo_pixel_def="LU",
            geo_column_offset=np.array([0.0], np.float32),
            geo_row_offset=np.array([3650.0], np.float32),
            geo_pixel_size_x=np.array([1.0], np.float32),
            geo_pixel_size_y=np.array([-1.0], np.float32),
        )
        _write(geographic.create_group("map_projection"), projection_proj4_params=KNMI)
        for number, name in ((1, parameter), (2, "QUALITY_[-]")):
            image = file.create_group(f"image{number}")
            _write(image, image_geo_parameter=name)
            _write(
                image.create_group("calibration"),
                calibration_flag="Y",
                calibration_formulas=formula,
                calibration_missing_data=np.array([codes[0]], np.int32),
                calibration_out_of_image=np.array([codes[1]], np.int32),
            )
            image.create_dataset("image_data", data=packed, compression="gzip")
    return path


def radolan_bytes(values, time, *, product="YW", precision="-02", interval="   5", lead=None):
    """A composite as DWD writes it; `values` (rows, columns) have two bytes, or one."""
    rows, columns = values.shape
    head = f"{product}{time:%d%H%M}10000{time:%m%y}BY"
    rest = f"VS 3SW   2.29.1PR E{precision}INT{interval}GP{rows:4d}x{columns:4d}"
    rest += f"VV {lead:03d}" if lead is not None else ""
    rest += "MF 00000008MS 70<asb,boo,ros,hnr,umd,pro,ess,fld,drs,neu,nhb,oft,eis,tur,isn,fbg,mem>"
    size = len(head) + 7 + len(rest) + 1 + values.nbytes
    return f"{head}{size:7d}{rest}".encode() + b"\x03" + values.tobytes()
