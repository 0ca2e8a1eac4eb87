"""Operators that convlstm's layers in PyTorch use on a CPU when this package is installed; nothing to call by hand.

Importing it registers `torch.ops.convlstm_native`.
"""

from pathlib import Path

import torch

INTERFACE = 1
"""Raised when an operator or its arguments change; convlstm uses the number that it knows, and no other."""

_FILES = [path for path in Path(__file__).parent.glob("_kernels*") if path.suffix in (".so", ".pyd")]
if len(_FILES) != 1:
    raise ImportError(f"convlstm-native: expected one library beside {__file__}, got {len(_FILES)}; install it again.")
torch.ops.load_library(_FILES[0])
