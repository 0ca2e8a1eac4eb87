"""Weights that a caller promised not to change, whose reordered copies are kept from call to call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


@dataclass
class _Fixed:
    """A weight, the number of blocks that hold it fixed, and what is kept of its content of `origin`."""

    weight: Tensor
    blocks: int = 0
    origin: tuple[int, int] | None = None
    digest: bytes = b""
    copies: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def current_origin(self) -> tuple[int, int]:
        """Address and version: PyTorch counts changes in place."""
        return self.weight.data_ptr(), self.weight._version

    def digest_now(self) -> bytes:
        """Return a digest of the content."""
        values = self.weight.detach().contiguous().flatten().view(torch.uint8)
        return hashlib.blake2b(values.numpy().data).digest()

    def refresh(self) -> tuple[int, int]:
        """Forget what was kept of an earlier content; return the current origin."""
        origin = self.current_origin
        if origin != self.origin:
            self.copies.clear()
            self.origin, self.digest = origin, self.digest_now()
        return origin


_LOCK = RLock()
_FIXED: dict[int, _Fixed] = {}
"""By `id`: an entry refers to its weight, so that no other object takes the number."""


def hold(weights: Iterable[Tensor]) -> None:
    """Hold weights fixed, until as many calls of `release`."""
    with _LOCK:
        for weight in weights:
            _FIXED.setdefault(id(weight), _Fixed(weight)).blocks += 1


def release(weights: Iterable[Tensor]) -> list[int]:
    """Undo `hold`; return the numbers of those weights that changed after a copy was made, and were not counted."""
    changed = []
    with _LOCK:
        for number, weight in enumerate(weights):
            entry = _FIXED[id(weight)]
            if entry.origin == entry.current_origin and entry.digest != entry.digest_now():
                changed.append(number)
            entry.blocks -= 1
            if not entry.blocks:
                del _FIXED[id(weight)]
        if changed:  # a copy of several weights is kept with the last of them
            for entry in _FIXED.values():
                entry.copies.clear()
                entry.origin = None
    return changed


def are_fixed(weights: Sequence[Tensor]) -> bool:
    """Return whether every weight is held fixed."""
    return bool(_FIXED) and all(id(weight) in _FIXED for weight in weights)


def cached(weights: Sequence[Tensor], key: Hashable, make: Callable[[], Value]) -> Value:
    """Return what `make` computes from weights for which `are_fixed` holds, computed once for each key.

    It is computed again after a change in place, which PyTorch counts, and after a move to other memory. A write
    through `weight.data` to the same memory is not counted: `release` finds it.
    """
    with _LOCK:
        entries = [entry for weight in weights if (entry := _FIXED.get(id(weight))) is not None]
        if len(entries) < len(weights):  # a block of another thread has ended since `are_fixed`
            return make()
        full_key = (key, *(entry.refresh() for entry in entries))
        values = entries[-1].copies
        if full_key not in values:
            values[full_key] = make()
        value: Value = values[full_key]
        return value
