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
    from convlstm.spec.masks import DropoutMasks as DropoutMasks
    from convlstm.spec.options import ConvLSTMSpec as ConvLSTMSpec

__version__ = "0.1.0"
__all__ = ["ConvLSTMSpec", "DropoutMasks", "ForecasterSpec", "__version__"]

_MODULES = {
    "ConvLSTMSpec": "convlstm.spec.options",
    "DropoutMasks": "convlstm.spec.masks",
    "ForecasterSpec": "convlstm.spec.forecaster",
}
# the public names of the frameworks that a reader looks for here, with the names in the modules that have them
_TORCH, _KERAS, _FLAX, _HAIKU, _MLX = (f"convlstm.{name}" for name in ("torch", "keras", "flax", "haiku", "mlx"))
_ELSEWHERE: dict[str, dict[str, str]] = {
    "ConvLSTM": {_TORCH: "ConvLSTM", _KERAS: "ConvLSTM2D", _FLAX: "ConvLSTM", _HAIKU: "ConvLSTM", _MLX: "ConvLSTM"},
    "ConvLSTMCell": {
        _TORCH: "ConvLSTMCell",
        _KERAS: "ConvLSTM2DCell",
        _FLAX: "ConvLSTMCell",
        _HAIKU: "ConvLSTMCell",
        _MLX: "ConvLSTMCell",
    },
    "StatefulConvLSTM": dict.fromkeys((_TORCH, _MLX), "StatefulConvLSTM"),
    **{name: dict.fromkeys((_TORCH, _KERAS, _FLAX, _MLX), name) for name in ("Forecaster", "load", "save")},
    **{name: {_KERAS: name} for name in ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "ConvLSTMStack")},
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `import convlstm` is fast."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name not in _ELSEWHERE:
        raise AttributeError(f"module 'convlstm' has no attribute {name!r}")
    lines = [f"`from {module} import {public}`" for module, public in _ELSEWHERE[name].items()]
    choice = f"{', '.join(lines[:-1])} or {lines[-1]}" if len(lines) > 1 else lines[0]
    text = f"convlstm has no {name}, which each framework has in its own module: write {choice}."
    # an import statement discards the text of an AttributeError, but not that of an ImportError
    is_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"
    raise (ImportError if is_import else AttributeError)(text)
