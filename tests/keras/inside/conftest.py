"""Every check of the Keras face starts from one seed; `tests/keras/test_backends.py` runs them on each backend."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    for module in ("tensorflow", "keras", "jax", "flatbuffers", "google"):  # their own, about each other
        config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{module}")
        config.addinivalue_line("filterwarnings", f"ignore::FutureWarning:{module}")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    import keras

    keras.utils.set_random_seed(0)
