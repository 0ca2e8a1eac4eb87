"""Memory for the arrays of a whole sequence, used again by the next call.

On a CPU PyTorch gives memory back to the system as soon as an array ends. The next training step asks for the same
arrays, and the page faults of 300 MB take as long as a good part of the convolution that fills them. So the engine
keeps its largest arrays: at most an eighth more than it once needed at the same time, those in use among them.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from threading import RLock

import torch
from torch import Tensor

_WORTH_IT = 4 << 20
"""Bytes from which on an array is kept; the C library itself keeps smaller ones."""


class _Pool:
    """Areas of memory that wait to be used again.

    An area is returned when its last array is freed: in any thread, and by garbage collection even in the middle of a
    method here. So it is only appended to a queue then, and the lists and counters change under the lock alone.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._returned: deque[mmap.mmap] = deque()
        self._waiting: list[mmap.mmap] = []
        self._used = 0
        self.peak_bytes = 0

    def renew_lock(self) -> None:
        """Take a new lock, in a forked process in which nobody will release the old one."""
        self._lock = RLock()

    @property
    def used_bytes(self) -> int:
        """Bytes of the areas that arrays use."""
        with self._lock:
            self._collect()
            return self._used

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the areas that wait."""
        with self._lock:
            self._collect()
            return sum(map(len, self._waiting))

    def take(self, size: int) -> memoryview:
        """Return that many bytes, whose content is undefined; they come back when nothing uses them any more."""
        with self._lock:
            self._collect()
            fitting = [n for n, area in enumerate(self._waiting) if size <= len(area) <= size + size // 4]
            if fitting:
                return self._lent(self._waiting.pop(fitting[0]))
            self.peak_bytes = max(self.peak_bytes, self._used + size)
            self.shrink(self.peak_bytes + self.peak_bytes // 8 - size)
            return self._lent(_mapped(size))

    def shrink(self, size: int) -> None:
        """Give the oldest areas back to the system until so many bytes are used or waiting."""
        with self._lock:
            self._collect()
            while self._waiting and self._used + sum(map(len, self._waiting)) > size:
                del self._waiting[0]

    def _collect(self) -> None:
        """Put the areas that came back among those that wait."""
        with suppress(IndexError):
            while True:
                area = self._returned.popleft()
                self._used -= len(area)
                self._waiting.append(area)

    def _lent(self, area: mmap.mmap) -> memoryview:
        lent = memoryview(area)
        self._used += len(area)
        weakref.finalize(lent, self._returned.append, area).atexit = False
        return lent


_POOL = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.renew_lock)


def empty(shape: Sequence[int], like: Tensor, memory_format: torch.memory_format, dtype: torch.dtype) -> Tensor:
    """Return an array of undefined content on the device of a tensor, in a memory format, in memory used before."""
    size = prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or size < _WORTH_IT or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(tuple(shape), dtype=dtype, device=like.device, memory_format=memory_format)
    values = torch.frombuffer(_POOL.take(size), dtype=dtype, count=prod(shape))
    if memory_format == torch.contiguous_format:
        return values.view(*shape)
    return values.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def release_memory() -> None:
    """Give the memory that waits for the next call of a layer back to the system.

    Example:
        >>> release_memory()
    """
    _POOL.shrink(0)


def _mapped(size: int) -> mmap.mmap:
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # pages of 2 MiB, where the system has them
        area.madvise(mmap.MADV_HUGEPAGE)
    return area
