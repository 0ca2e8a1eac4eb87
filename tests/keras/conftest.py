"""Tests of the Keras frontend, on the backend that KERAS_BACKEND names; each starts from the same seed.

A process has one Keras backend, so `make test` runs this folder once for each backend. Without the variable nothing
here is collected.
"""

from __future__ import annotations

import os

import pytest

BACKEND = os.environ.get("KERAS_BACKEND")
collect_ignore_glob = [] if BACKEND else ["test_*.py"]
collect_ignore = [] if BACKEND == "tensorflow" else ["test_tensorflow.py", "test_tensorflow_winograd.py"]


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    import keras

    keras.utils.set_random_seed(0)
