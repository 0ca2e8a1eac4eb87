"""Building a Keras object from a model file."""

from __future__ import annotations

from pathlib import Path

from convlstm.frontend.loading import load_module, no_float64
from convlstm.keras.engines import has_float64
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.stack_layer import ConvLSTMStack
from convlstm.keras.weights import load_canonical


def load(path: str | Path, *, dtype: str | None = None) -> ConvLSTMStack | Forecaster:
    """Read a model file of any framework into a Keras layer or model.

    Args:
        path: A file that `save` of any framework wrote.
        dtype: Keras dtype policy; None takes the file's own type, float32 or float64.

    Returns:
        A stack or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is not an intact model file, or holds float64 that JAX would round to float32.

    Example:
        >>> import tempfile
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.keras import save
        >>> path = Path(tempfile.mkdtemp()) / "stack.safetensors"
        >>> digest = save(path, ConvLSTMStack(ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)))
        >>> type(load(path)).__name__
        'ConvLSTMStack'
    """

    def read_dtype(stored: str) -> str:
        chosen = dtype or stored
        if chosen == "float64" and not has_float64():
            raise no_float64(path, "dtype='float32'")
        return chosen

    return load_module(
        path,
        read_dtype,
        lambda spec, chosen: ConvLSTMStack(spec, dtype=chosen),
        lambda spec, chosen: Forecaster(spec, dtype=chosen),
        load_canonical,
    )
