"""The block size of the fused implementation, without arrays, so that the memory estimate can import it."""

from __future__ import annotations

BLOCK_VALUES = 4 << 20
"""Values of z in one block: as many steps as fit; a larger step is computed a quarter of a block at a time."""
