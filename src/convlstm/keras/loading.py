"""Building a Keras object from a model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convlstm.contract.checkpoint import load_model
from convlstm.contract.forecaster import ForecasterSpec
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.stacked import ConvLSTMStack
from convlstm.keras.weights import load_canonical


def load(path: str | Path, *, dtype: str | None = None) -> ConvLSTMStack | Forecaster:
    """Read a model file of any framework into a Keras layer or model.

    Args:
        path: A file that `save` of any face wrote.
        dtype: Keras dtype policy; None takes the file's own type, float32 or float64.

    Returns:
        A stack or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is no intact model file.

    Example:
        >>> import tempfile
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.keras import save
        >>> path = Path(tempfile.mkdtemp()) / "stack.safetensors"
        >>> digest = save(path, ConvLSTMStack(ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)))
        >>> type(load(path)).__name__
        'ConvLSTMStack'
    """
    model = load_model(path)
    double = all(array.dtype == np.float64 for array in model.weights.values())
    dtype = dtype or ("float64" if double else "float32")
    found: ConvLSTMStack | Forecaster
    if isinstance(model.spec, ForecasterSpec):
        found = Forecaster(model.spec, dtype=dtype)
    else:
        found = ConvLSTMStack(model.spec, dtype=dtype)
    load_canonical(found, model.weights)
    return found
