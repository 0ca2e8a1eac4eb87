"""The call forms of other ConvLSTM cells, on this package's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from convlstm.keras.cell import ConvLSTM2DCell
from convlstm.spec.types import PerAxis


@keras.saving.register_keras_serializable("convlstm")
class DurationAwareConvLSTMCell(ConvLSTM2DCell):
    """A `ConvLSTM2DCell` that takes a frame and its duration, and keeps the size of its frames.

    Args:
        filters: Channels of h and c.
        kernel_size: Kernel of both convolutions.
        padding: As of `ConvLSTM2DCell`, here `same` by default.
        duration_strategy: How the duration scales the candidate, here a learned network by default.
        **options: Every further option of `ConvLSTM2DCell`.

    Example:
        >>> import numpy as np
        >>> from convlstm.keras import RNN
        >>> cell = DurationAwareConvLSTMCell(filters=64, kernel_size=(3, 3))
        >>> frames, durations = np.zeros((2, 5, 16, 16, 3)), np.ones((2, 5))
        >>> tuple(RNN(cell, return_sequences=True)((frames, durations)).shape)
        (2, 5, 16, 16, 64)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: PerAxis,
        *,
        padding: str | PerAxis = "same",
        duration_strategy: str | Callable[[Any], Any] = "mlp",
        **options: Any,
    ) -> None:
        super().__init__(filters, kernel_size, padding=padding, duration_strategy=duration_strategy, **options)
