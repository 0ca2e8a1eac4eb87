"""Building a Keras object from a model file."""

from __future__ import annotations

from pathlib import Path

from convlstm.errors import WeightsError
from convlstm.keras.engines import has_float64
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.stacked import ConvLSTMStack
from convlstm.keras.weights import load_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.checkpoint import load_model


def load(path: str | Path, *, dtype: str | None = None) -> ConvLSTMStack | Forecaster:
    """Read a model file of any framework into a Keras layer or model.

    Args:
        path: A file that `save` of any face wrote.
        dtype: Keras dtype policy; None takes the file's own type, float32 or float64.

    Returns:
        A stack or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is no intact model file, or holds float64 that JAX would round to float32.

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
    dtype = dtype or model.dtype
    model.check_range(dtype)
    if dtype == "float64" and not has_float64():
        raise WeightsError(
            str(path),
            expected="float32 weights while JAX has no float64",
            received="float64",
            hint="call jax.config.update('jax_enable_x64', True), or pass dtype='float32' to round them.",
        )
    found: ConvLSTMStack | Forecaster
    if isinstance(model.spec, ForecasterSpec):
        found = Forecaster(model.spec, dtype=dtype)
    else:
        found = ConvLSTMStack(model.spec, dtype=dtype)
    load_canonical(found, model.weights)
    return found
