"""Building a PyTorch module from a model file."""

from __future__ import annotations

from pathlib import Path

import torch

from convlstm.frontend.loading import load_module
from convlstm.torch.forecaster import Forecaster
from convlstm.torch.layer import ConvLSTM
from convlstm.torch.weights import load_canonical


def load(
    path: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> ConvLSTM | Forecaster:
    """Read a model file of any framework into a PyTorch module, in evaluation mode.

    Args:
        path: A file that `save` of any framework wrote.
        device: As in every PyTorch module.
        dtype: Type of the parameters, as in every framework; None takes the file's own, float32 or float64.

    Returns:
        A layer or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is not an intact model file.

    Example:
        >>> import tempfile
        >>> from convlstm.torch import save
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3))
        >>> type(load(path)).__name__
        'ConvLSTM'
    """
    module: ConvLSTM | Forecaster = load_module(
        path,
        lambda stored: dtype or getattr(torch, stored),
        lambda spec, chosen: ConvLSTM.from_spec(spec, device=device, dtype=chosen),
        lambda spec, chosen: Forecaster(spec, device=device, dtype=chosen),
        load_canonical,
    )
    return module.eval()
