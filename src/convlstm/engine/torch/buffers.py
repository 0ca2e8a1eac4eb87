"""A pool of memory for the arrays of a sequence, which the next call uses again.

On a CPU PyTorch returns the memory of an array to the system as soon as the array is deleted. The next training step
asks for the same arrays again, and the page faults of 300 MB take a large share of the time of the convolution that
writes them. So the engine keeps the memory of its largest arrays: in total, with the arrays in use, at most an eighth
more than the most that was once in use.
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

_MIN_POOLED_BYTES = 4 << 20
"""Least size of an array in the pool; the C library itself keeps smaller ones."""


class _Pool:
    """Areas of memory that are free to be used again.

    An area is returned where its last array is deleted: in any thread, and by garbage collection even during a method
    of this class. So a returned area is only appended to a queue; the lists and counters change under the lock.
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
        """Bytes of the areas in use."""
        with self._lock:
            self._collect()
            return self._used

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the free areas."""
        with self._lock:
            self._collect()
            return sum(map(len, self._waiting))

    def take(self, size: int) -> memoryview:
        """Return `size` bytes of undefined content, which return to the pool when nothing refers to them any more."""
        with self._lock:
            self._collect()
            fitting = [n for n, area in enumerate(self._waiting) if size <= len(area) <= size + size // 4]
            if fitting:
                return self._lent(self._waiting.pop(fitting[0]))
            self.peak_bytes = max(self.peak_bytes, self._used + size)
            self.shrink(self.peak_bytes + self.peak_bytes // 8 - size)
            return self._lent(_mapped(size))

    def shrink(self, size: int) -> None:
        """Return the oldest free areas to the system until at most `size` bytes are in use or free."""
        with self._lock:
            self._collect()
            while self._waiting and self._used + sum(map(len, self._waiting)) > size:
                del self._waiting[0]

    def _collect(self) -> None:
        """Move the areas in the queue to the free ones."""
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
    """Return an array of undefined content on the device of `like`; a large one takes memory from the pool."""
    size = prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or size < _MIN_POOLED_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(tuple(shape), dtype=dtype, device=like.device, memory_format=memory_format)
    values = torch.frombuffer(_POOL.take(size), dtype=dtype, count=prod(shape))
    if memory_format == torch.contiguous_format:
        return values.view(*shape)
    return values.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def release_memory() -> None:
    """Return the memory that is kept for the next call of a layer to the system.

    Example:
        >>> release_memory()
    """
    _POOL.shrink(0)


def _mapped(size: int) -> mmap.mmap:
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # pages of 2 MiB, where the system has them
        area.madvise(mmap.MADV_HUGEPAGE)
    return area
