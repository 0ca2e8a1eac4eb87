"""Building an MLX module from a model file."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from convlstm.frontend.loading import load_module
from convlstm.mlx.forecaster import Forecaster
from convlstm.mlx.layer import ConvLSTM
from convlstm.mlx.weights import load_canonical


def load(path: str | Path, *, dtype: mx.Dtype | None = None) -> ConvLSTM | Forecaster:
    """Read a model file of any framework into an MLX module, in evaluation mode.

    Args:
        path: A file that `save` of any framework wrote.
        dtype: Type of the parameters, as in every framework; None takes the file's own, float32 or float64 (which MLX
            has on CPU only).

    Returns:
        A layer or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is not an intact model file.

    Example:
        >>> import tempfile
        >>> from convlstm.mlx import save
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3))
        >>> type(load(path)).__name__
        'ConvLSTM'
    """
    module: ConvLSTM | Forecaster = load_module(
        path,
        lambda stored: dtype or getattr(mx, stored),
        lambda spec, chosen: ConvLSTM.from_spec(spec, dtype=chosen),
        lambda spec, chosen: Forecaster(spec, dtype=chosen),
        load_canonical,
    )
    module.eval()
    return module
