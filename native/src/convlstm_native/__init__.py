"""Compiled operators for the PyTorch layers of convlstm on a CPU; convlstm uses them if this package is installed.

Importing it registers `torch.ops.convlstm_native`.
"""

from pathlib import Path

import torch

INTERFACE = 1
"""Version of the operators and their arguments; convlstm uses the package only if it supports this version."""

_FILES = [path for path in Path(__file__).parent.glob("_kernels*") if path.suffix in (".so", ".pyd")]
if len(_FILES) != 1:
    raise ImportError(f"convlstm-native: expected one library next to {__file__}, got {len(_FILES)}. Install it again.")
torch.ops.load_library(_FILES[0])
