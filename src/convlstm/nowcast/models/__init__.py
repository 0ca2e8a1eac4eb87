"""The models that come with the package, as model files."""

from __future__ import annotations

from pathlib import Path

RAIN = "rain.safetensors"
"""File name of the model of radar rain: 5-minute steps on a grid of about 1 km, up to one hour ahead."""

LICENSE = "apache-2.0"
"""Licence of the models in this package, as the Hugging Face Hub names it."""


def shipped_model() -> Path:
    """Return the path of the model of radar rain that comes with the package.

    Example:
        >>> from convlstm.weights.checkpoint import load_model
        >>> load_model(shipped_model()).spec.thresholds
        (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
    """
    return Path(__file__).parent / RAIN
