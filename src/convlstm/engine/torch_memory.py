"""Memory for the arrays of a whole sequence, used again by the next call.

On a CPU PyTorch gives memory back to the system as soon as an array ends. The next training step asks for the same
arrays, and the page faults of 300 MB take as long as a good part of the convolution that fills them. So the engine
keeps its largest arrays: at most an eighth more than it once needed at the same time, those in use among them.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

_WORTH_IT = 4 << 20
"""Bytes from which on an array is kept; the C library itself keeps smaller ones."""


class _Pool:
    """Areas of memory that wait to be used again.

    Every operation on the queue is atomic: an area comes back wherever the last array in it ends, in any thread.
    """

    def __init__(self) -> None:
        self.waiting: deque[mmap.mmap] = deque()
        self.used = self.most = 0

    def take(self, size: int) -> memoryview:
        """Return that many bytes, whose content is undefined; they come back when nothing uses them any more."""
        area = next((area for area in tuple(self.waiting) if size <= len(area) <= size + size // 4), None)
        with suppress(ValueError):  # another thread was faster
            if area is not None:
                self.waiting.remove(area)
                return self._lent(area, size)
        self.most = max(self.most, self.used + size)
        self.shrink(self.most + self.most // 8 - size)
        return self._lent(_mapped(size), size)

    def shrink(self, size: int) -> None:
        """Give the oldest areas back to the system until so many bytes are used or waiting."""
        while self.waiting and self.used + sum(map(len, tuple(self.waiting))) > size:
            with suppress(IndexError):
                self.waiting.popleft()

    def _lent(self, area: mmap.mmap, size: int) -> memoryview:
        lent = memoryview(area)
        self.used += len(area)
        weakref.finalize(lent, self._back, area).atexit = False
        return lent

    def _back(self, area: mmap.mmap) -> None:
        self.used -= len(area)
        self.waiting.append(area)


_POOL = _Pool()


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
