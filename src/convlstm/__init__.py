"""The convolutional LSTM under one numerical contract, and a nowcaster built on it.

`import convlstm` loads no framework: take `convlstm.torch` for PyTorch. The specs stand here because every
framework shares them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convlstm.spec.forecaster import ForecasterSpec as ForecasterSpec
    from convlstm.spec.stack import ConvLSTMSpec as ConvLSTMSpec

__version__ = "0.1.0"
__all__ = ["ConvLSTMSpec", "ForecasterSpec", "__version__"]

_HOMES = {"ConvLSTMSpec": "convlstm.spec.stack", "ForecasterSpec": "convlstm.spec.forecaster"}


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use, so that the bare import stays quick."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'convlstm' has no attribute {name!r}")
