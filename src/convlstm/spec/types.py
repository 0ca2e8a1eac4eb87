"""Shared type aliases."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
"""A NumPy array of any type and shape."""

Size = tuple[int, ...]
"""Points along each spatial axis."""
