"""The names of the inputs of an exported model, which `convlstm.export` gives and each framework's export reads."""

from __future__ import annotations

FRAMES = ("x", "frames")
"""The frames of a layer, and those of a forecaster."""

GAPS_PREFIX = "gaps."
"""Start of the names of the gaps of a layer in two directions, before the direction."""
