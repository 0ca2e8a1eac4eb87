"""How many steps the fused path takes together; array-free, so that the memory estimate reads it too."""

from __future__ import annotations

BLOCK_VALUES = 4 << 20
"""Values of z in one block: as many steps as fit, and of a larger step a quarter at a time."""
