"""Operators that convlstm's layers in PyTorch use on a CPU when this package is installed; nothing to call by hand.

Importing it registers `torch.ops.convlstm_native`.
"""

from pathlib import Path

import torch

INTERFACE = 1
"""Raised when an operator or its arguments change; convlstm uses the number that it knows, and no other."""

_FILES = (path for path in Path(__file__).parent.iterdir() if path.name.startswith("_kernels"))
torch.ops.load_library(next(path for path in _FILES if path.suffix in (".so", ".pyd")))
