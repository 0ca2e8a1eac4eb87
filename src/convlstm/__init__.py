"""Convolutional LSTM layers with one numerical specification for four frameworks, and a tool for nowcasting.

`import convlstm` loads no framework. Import the layers from `convlstm.torch`, `convlstm.keras`, `convlstm.flax` or
`convlstm.mlx`. This module has the specs, which all frameworks share.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convlstm.spec.forecaster import ForecasterSpec as ForecasterSpec
    from convlstm.spec.options import ConvLSTMSpec as ConvLSTMSpec

__version__ = "0.1.0"
__all__ = ["ConvLSTMSpec", "ForecasterSpec", "__version__"]

_MODULES = {"ConvLSTMSpec": "convlstm.spec.options", "ForecasterSpec": "convlstm.spec.forecaster"}
_KERAS_NAMES = {"ConvLSTM": "ConvLSTM2D", "ConvLSTMCell": "ConvLSTM2DCell"}
_FRAMEWORK_NAMES = ("ConvLSTM", "ConvLSTMCell", "Forecaster", "load", "save")


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `import convlstm` is fast."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name not in _FRAMEWORK_NAMES:
        raise AttributeError(f"module 'convlstm' has no attribute {name!r}")
    keras_name = f" (as {_KERAS_NAMES[name]})" if name in _KERAS_NAMES else ""
    text = (
        f"{name} lives in convlstm.torch, convlstm.keras{keras_name}, convlstm.flax and convlstm.mlx, one for each "
        f"framework. Import it from there, for example: from convlstm.torch import {name}"
    )
    # an import statement discards the text of an AttributeError, but not that of an ImportError
    is_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"
    raise (ImportError if is_import else AttributeError)(text)
