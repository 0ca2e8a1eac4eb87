"""Shared type aliases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
"""A NumPy array of any type and shape."""

Size = tuple[int, ...]
"""Points along each spatial axis."""

PerAxis = int | tuple[int, ...]
"""One number for all spatial axes, or one per axis."""

LayerSizes = PerAxis | Sequence[PerAxis]
"""Kernel size, stride or dilation: one for all layers, or one per layer."""

Padding = str | PerAxis | Sequence[str | PerAxis]
"""`same`, `valid` or points per axis: one for all layers, or one per layer."""
