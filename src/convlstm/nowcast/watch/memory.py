"""Return free memory to the system."""

from __future__ import annotations

import ctypes
import sys


def return_free_memory() -> None:
    """Return the free memory of the C library to the system, where it is glibc; elsewhere do nothing.

    glibc keeps it in parts between other blocks: about 0.4 MB more after each forecast, until it is returned.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
