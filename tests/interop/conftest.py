"""How a layer of another project is checked: its output against the reference on the converted weights."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from convlstm.conformance.compare import error
from convlstm.interop import Converted
from convlstm.reference import recurrence as reference
from convlstm.spec.options import ConvLSTMSpec

Compare = Callable[..., None]

# a process has one Keras backend: `make test` runs this file in the process for PyTorch
collect_ignore = [] if os.environ.get("KERAS_BACKEND") == "torch" else ["test_keras.py"]


@pytest.fixture(scope="session")
def same_numbers() -> Compare:
    """Hold a foreign layer's outputs (channels first) and final states to the reference, in float64."""

    def compare(converted: Converted, x, output, states=(), *, mask=None, tolerance=1e-12):
        assert isinstance(converted.spec, ConvLSTMSpec)
        wide = {key: np.asarray(array, np.float64) for key, array in converted.weights.items()}
        expected, final = reference.stack(converted.spec, wide, np.asarray(x, np.float64), mask=mask)
        found = output if isinstance(output, tuple) else (output,)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        pairs = [*zip(found, wanted, strict=True)]
        pairs += [pair for got, want in zip(states, final, strict=bool(states)) for pair in zip(got, want, strict=True)]
        for a, b in pairs:
            assert a.shape == b.shape
            assert np.abs(b).max() > 0.01
            assert error(np.asarray(a, np.float64), b) < tolerance

    return compare
