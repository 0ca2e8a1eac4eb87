"""Threads of each backend; what every trainer does is in `tests/frontends`."""

from __future__ import annotations

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError
from convlstm.frontend.trainer import Sample
from convlstm.keras.engines import BACKEND
from convlstm.keras.training import Trainer, set_threads
from convlstm.weights.canonical import initialise


def test_threads_are_set_where_the_backend_allows_it() -> None:
    spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)
    frames = np.ones((2, 3, 1, 8, 8), np.float32)
    Trainer(spec, initialise(spec, 0)).loss(Sample(frames, frames, frames))
    if BACKEND == "torch":
        set_threads(1)
        return
    with pytest.raises(ConfigError, match="threads"):
        set_threads(7)
