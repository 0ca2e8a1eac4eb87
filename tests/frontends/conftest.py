"""The frontends whose layer, cell and forecaster take the same arguments, behind one way to make arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Frontend:
    """A frontend, and how to make its arrays."""

    name: str
    make: Callable[[np.ndarray], Any]
    channels_last: bool

    def __getattr__(self, name: str) -> Any:
        """Return what the frontend's package has by that name, as `ConvLSTM`."""
        return getattr(import_module(f"convlstm.{self.name}"), name)

    def frames(self, *shape: int, dtype: str = "float32") -> Any:
        """Return zeros of a shape (..., channels, height, width), in the frontend's layout."""
        return self.make(self.foreign(*shape).astype(dtype))

    def foreign(self, *shape: int) -> np.ndarray:
        """Return the same zeros as a NumPy array."""
        zeros = np.zeros(shape, dtype=np.float32)
        return np.ascontiguousarray(np.moveaxis(zeros, -3, -1)) if self.channels_last else zeros

    def ones(self, *shape: int, dtype: str = "float32") -> Any:
        """Return ones of a shape without channels."""
        return self.make(np.ones(shape, dtype=dtype))


def _torch() -> Frontend:
    import torch

    torch.manual_seed(0)
    return Frontend("torch", torch.from_numpy, channels_last=False)


def _mlx() -> Frontend:
    mx = pytest.importorskip("mlx.core")
    mx.set_default_device(mx.cpu)
    mx.random.seed(0)
    return Frontend("mlx", lambda array: mx.array(array, dtype=getattr(mx, _mlx_name(array))), channels_last=True)


def _mlx_name(array: np.ndarray) -> str:
    return "bool_" if array.dtype == bool else array.dtype.name


@pytest.fixture(params=[_torch, _mlx], ids=["torch", "mlx"])
def frontend(request: pytest.FixtureRequest) -> Frontend:
    found: Frontend = request.param()
    return found
