"""The radar sample that ships in the package, so that everything can be tried without a download."""

from __future__ import annotations

from pathlib import Path


def sample_path() -> Path:
    """Return the path of the radar rain sample in this package.

    The sample has 588 frames of 96 × 96 cells of 1 km, five minutes apart, in mm/h: wet hours of seven days in May
    2018, from RADOLAN YW of the Deutscher Wetterdienst (DWD). Name the source where you show it, as in its attribute
    `attribution`.

    Returns:
        Path of a NetCDF file that `convlstm.data.open_frames` reads.

    Example:
        >>> sample_path().name
        'radolan_yw_sample.nc'
    """
    return Path(__file__).with_name("radolan_yw_sample.nc")
