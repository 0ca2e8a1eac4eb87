"""Many files of one sequence, of which a few are open at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.formats.kinds import has_default_fill
from convlstm.data.formats.lazy import Key
from convlstm.data.no_data import declared_codes

MOST_OPEN = 16
"""Files that are open at once."""


class OpenFiles:
    """The last files that were used, open for reading; one thread reads at a time."""

    def __init__(self, places: Sequence[str], open_place: Callable[[str], xr.Dataset]) -> None:
        self._places = places
        self._open_place = open_place
        self._open: OrderedDict[int, xr.Dataset] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, number: int) -> xr.Dataset:
        """Return a file as a dataset, opened again if it was closed."""
        with self._lock:
            if number not in self._open:
                while len(self._open) >= MOST_OPEN:
                    self._open.popitem(last=False)[1].close()
                self._open[number] = self._open_place(self._places[number])
            self._open.move_to_end(number)
            return self._open[number]

    def read(
        self, number: int, name: Hashable, dims: tuple[Hashable, ...], time: NDArray[np.intp], rest: Key, unpack: bool
    ) -> NDArray[Any]:
        """Return values (time, …) of a file; `dims` are those of the variable, with time first if it has it."""
        with self._lock:
            dataset = self.get(number)
            variable = dataset[name].variable.transpose(*dims)
            if len(dims) > len(rest):
                run = slice(int(time[0]), int(time[-1]) + 1)
                is_run = run.stop - run.start == len(time) and bool((np.diff(time) == 1).all())
                part = variable[(run if is_run else time, *rest)]
                values, attrs = np.asarray(part.values), part.attrs
            else:
                values, attrs = np.asarray(variable[rest].values)[None], variable.attrs
            return _unpacked(values, attrs, has_default_fill(dataset)) if unpack else values

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to open the files itself."""
        return {"places": self._places, "open_place": self._open_place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["places"], state["open_place"])  # type: ignore[misc]


def _unpacked(packed: NDArray[Any], attrs: Mapping[Any, Any], default_fill: bool) -> NDArray[np.float32]:
    """Return physical values of packed numbers, NaN for no data."""
    if str(attrs.get("_Unsigned", "")).lower() == "true" and packed.dtype.kind == "i":
        packed = packed.view(f"u{packed.dtype.itemsize}")
    values = packed.astype(np.float64) * float(attrs.get("scale_factor", 1)) + float(attrs.get("add_offset", 0))
    for code in declared_codes(attrs, packed.dtype, is_file=default_fill):
        values[packed == code] = np.nan
    return values.astype(np.float32)
