"""Building a Keras object from a model file."""

from __future__ import annotations

from pathlib import Path

from convlstm.errors import SpecError
from convlstm.frontend.loading import load_module, no_float64
from convlstm.keras.engines import has_float64
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.stack_layer import ConvLSTMStack
from convlstm.keras.weights import load_canonical

_TYPES = ("float64", "float32", "bfloat16", "float16")


def load(path: str | Path, *, dtype: str | None = None) -> ConvLSTMStack | Forecaster:
    """Read a model file of any framework into a Keras layer or model.

    Args:
        path: A file that `save` of any framework wrote.
        dtype: Type of the variables, as in every framework; None takes the file's own, float32 or float64. For a
            policy of two types, as `mixed_bfloat16`, build the object with it and use `load_canonical`.

    Returns:
        A stack or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is not an intact model file, or holds float64 that JAX would round to float32.
        SpecError: for a policy of two types.

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
        if chosen not in _TYPES:
            raise SpecError(
                "dtype",
                expected=f"one of {', '.join(_TYPES)}, the type of the variables",
                received=repr(chosen),
                hint="Build the object with this policy, and copy the weights with `load_canonical`.",
            )
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
