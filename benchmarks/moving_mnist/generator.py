"""Sequences of moving digits, determined by a seed.

The rules are those of Srivastava et al. (2015), arXiv:1502.04681, whose generator both protocols use:

1. The upper left corner of a digit starts at a uniformly distributed point of the square where the digit is inside
   the canvas. With 28 × 28 digits on 64 × 64 pixels, its side is 36 pixels.
2. The direction of the velocity is uniformly distributed. The speed is constant within a sequence.
3. Each frame follows one step, also the first one. A coordinate that reaches or passes an edge is put on the edge, and
   this component of the velocity changes its sign.
4. Positions are rounded down to whole pixels. Where digits overlap, a pixel is the maximum of them.

The protocols differ in the speed. OpenSTL: 0.1 sides of the square per frame, which are 3.6 pixels. Shi et al. (2015):
uniformly distributed from 3 to 5 pixels per frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

CANVAS = 64
FRAMES = 20


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How many digits move, and how fast.

    Args:
        digits: Digits of a sequence.
        slowest: Lowest speed in pixels per frame.
        fastest: Highest speed; speeds are uniformly distributed between the two.
    """

    digits: int = 2
    slowest: float
    fastest: float


def trajectories(motion: Motion, side: int, random: np.random.Generator) -> np.ndarray:
    """Return the upper left corners (frame, digit, 2) of digits of this side, in pixels and not rounded."""
    free = float(CANVAS - side)
    position = random.uniform(0.0, free, (motion.digits, 2))
    angle = random.uniform(0.0, 2.0 * np.pi, motion.digits)
    speed = random.uniform(motion.slowest, motion.fastest, motion.digits)
    velocity = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    corners = np.empty((FRAMES, motion.digits, 2))
    for frame in range(FRAMES):
        position = position + velocity
        reached = (position <= 0.0) | (position >= free)
        position = np.clip(position, 0.0, free)
        velocity = np.where(reached, -velocity, velocity)
        corners[frame] = position
    return corners


def sequence(digits: np.ndarray, motion: Motion, random: np.random.Generator) -> np.ndarray:
    """Return the frames (frame, 64, 64) of one sequence of digits that are chosen at random."""
    side = digits.shape[-1]
    corners = trajectories(motion, side, random).astype(int)
    chosen = digits[random.integers(len(digits), size=motion.digits)]
    frames = np.zeros((FRAMES, CANVAS, CANVAS), np.float32)
    for number, digit in enumerate(chosen):
        for frame, (top, left) in zip(frames, corners[:, number], strict=True):
            covered = frame[top : top + side, left : left + side]
            np.maximum(covered, digit, out=covered)
    return frames


@dataclass(frozen=True, eq=False, kw_only=True)
class Sequences:
    """An unlimited list of sequences: number n is determined by the seed, the part and n.

    Args:
        digits: The digits to choose from (digit, side, side), from 0 to 1.
        motion: How many digits move, and how fast.
        part: Number of the part (training, validation, test), whose sequences are different.
        seed: Any integer of at least 0.
    """

    digits: np.ndarray
    motion: Motion
    part: int
    seed: int

    def batch(self, numbers: Iterable[int]) -> np.ndarray:
        """Return sequences (batch, frame, 1, 64, 64)."""
        frames = [
            sequence(self.digits, self.motion, np.random.default_rng([self.seed, self.part, int(number)]))
            for number in numbers
        ]
        return np.stack(frames)[:, :, None]
