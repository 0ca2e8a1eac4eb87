"""Lines of Keras projects as they are written there, apart from imports and one repair.

The repair: Keras 3's own `RNN` reads `sequences.shape` and refuses a tuple, so `convlstm.keras.RNN` takes its place.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np

from convlstm.conformance.drop_in import STRATEGIES, UsageExample, UsageResult, against_reference
from convlstm.keras.compat import DurationAwareConvLSTMCell
from convlstm.keras.rnn import RNN
from convlstm.keras.weights import load_canonical, to_canonical
from convlstm.spec.types import Array


def duration_aware(strategy: str) -> UsageResult:
    """Run duration-aware ConvLSTM's layer with one strategy."""
    cell = DurationAwareConvLSTMCell(filters=64, kernel_size=(3, 3), duration_strategy=strategy)
    rnn_layer = RNN(cell, return_sequences=True)
    random = np.random.default_rng(1)
    frames_input = random.standard_normal((4, 3, 16, 16, 3)).astype(np.float32)
    durations_input = random.uniform(0.5, 1.5, (4, 3)).astype(np.float32)
    rnn_layer((frames_input, durations_input))
    _wake(cell)
    output = rnn_layer((frames_input, durations_input))
    return against_reference(
        *(cell.spec, to_canonical(cell), np.moveaxis(frames_input, -1, 2), []),
        shapes={"output": output.shape},
        durations=durations_input,
        output=_first(output),
    )


EXAMPLES = tuple(
    UsageExample(
        "duration-aware",
        f"RNN(cell, return_sequences=True)((frames_input, durations_input))  # {name}",
        partial(duration_aware, s),
    )
    for name, s in STRATEGIES.items()
)
"""Every line of a Keras project."""


def _wake(cell: Any) -> None:
    """Move the strategy's parameters off their neutral start, so that a fault would show."""
    random = np.random.default_rng(0)
    weights = to_canonical(cell)
    for key in weights:
        if ".duration." in key:
            weights[key] = np.asarray(weights[key] + 0.5 * random.standard_normal(weights[key].shape))
    load_canonical(cell, weights)


def _first(tensor: Any) -> Array:
    array = np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor)), np.float64)
    return np.moveaxis(array, -1, 2)
