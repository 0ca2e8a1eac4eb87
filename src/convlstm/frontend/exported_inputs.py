"""What `convlstm.export` passes to the export of each framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

FRAMES = ("x", "frames")
"""The frames of a layer, and those of a forecaster."""

GAPS_PREFIX = "gaps."
"""Start of the names of the gaps of a layer in two directions, before the direction."""


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A model to be written as a file.

    Args:
        spec: A stack without a framework, or a forecaster.
        weights: Canonical arrays by key.
        inputs: Example arrays by name, whose batch and time are open in the file.
        horizon: Number of forecast frames, for a forecaster only.
        probability: Whether a forecaster with thresholds returns probabilities instead of logits.
        open_space: Whether the spatial size is open.
    """

    spec: ConvLSTMSpec | ForecasterSpec
    weights: Mapping[str, Array]
    inputs: Mapping[str, Array]
    horizon: int | None
    probability: bool
    open_space: bool
