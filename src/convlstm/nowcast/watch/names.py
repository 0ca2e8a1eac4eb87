"""Names of forecast files, made from their initial times."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path, PurePath

import numpy as np

from convlstm.errors import ConfigError
from convlstm.nowcast.cf_output import DATA_SUFFIXES

DEFAULT_NAME = "forecast_%Y%m%dT%H%MZ.nc"
_DIRECTIVES = "YymdHMSjB"


class OutputNames:
    """The paths of the forecasts in a folder, from a template with the fields of `strftime`.

    Args:
        folder: The output folder.
        template: Such as `%Y/%m/%d/rain_%Y%m%dT%H%MZ.nc`; the fields are those of the initial time.
        time_step: Seconds between initial times, which must have different names.

    Raises:
        ConfigError: if the template leads outside the folder, has another suffix, or gives one name to two times.

    Example:
        >>> names = OutputNames(Path("out"), DEFAULT_NAME, 300.0)
        >>> names.path(np.datetime64("2018-05-20T12:00")).as_posix()
        'out/forecast_20180520T1200Z.nc'
    """

    def __init__(self, folder: Path, template: str, time_step: float) -> None:
        self.folder = folder
        self._template = template
        unknown = re.findall(rf"%(?![{_DIRECTIVES}%]).?", template)
        if unknown:
            expected = f"fields among {', '.join('%' + letter for letter in _DIRECTIVES)}"
            raise _wrong(template, expected, f"{unknown[0]!r} in it", "Correct the field.")
        if PurePath(template).suffix not in DATA_SUFFIXES:
            expected = f"a name that ends in {' or '.join(DATA_SUFFIXES)}"
            raise _wrong(template, expected, repr(template), "Add the suffix.")
        if PurePath(template).is_absolute() or ".." in PurePath(template).parts:
            raise _wrong(template, "a path within the output folder", repr(template), "Pass a relative path.")
        start = datetime(2018, 5, 20, 12)
        steps = (timedelta(0), timedelta(seconds=time_step), timedelta(hours=1), timedelta(days=1), timedelta(days=31))
        moments = [start + step for step in (*steps, timedelta(days=365), timedelta(days=3653))]
        if len({moment.strftime(template) for moment in moments}) < len(moments):
            hint = f"Use year, month, day, hour and minute, as in {DEFAULT_NAME}."
            raise _wrong(template, "another name for each initial time", repr(template), hint)

    def path(self, init_time: np.datetime64) -> Path:
        """Return the path of the forecast that starts at a time."""
        moment: datetime = init_time.astype("datetime64[us]").item()
        return self.folder / moment.strftime(self._template)


def _wrong(template: str, expected: str, received: str, hint: str) -> ConfigError:
    return ConfigError("--name", expected=expected, received=received, hint=hint)
