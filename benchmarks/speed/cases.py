"""The measured stacks and sequences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A stack and its sequence.

    Args:
        batch: Number of samples.
        steps: Number of steps.
        channels: Channels of the frames.
        hidden: Hidden channels of each layer.
        size: Spatial size.
        kernel: Kernel size along every axis.
    """

    batch: int
    steps: int
    channels: int
    hidden: tuple[int, ...]
    size: tuple[int, ...]
    kernel: int

    def shape(self, *, channels_last: bool) -> tuple[int, ...]:
        """Return the shape of the frames, batch first."""
        inner = (*self.size, self.channels) if channels_last else (self.channels, *self.size)
        return (self.batch, self.steps, *inner)


CASES = {
    "wide": Case(8, 10, 64, (64,), (64, 64), 3),
    "paper": Case(8, 10, 16, (128, 64, 64), (16, 16), 5),
    "openstl": Case(16, 19, 16, (128, 128, 128, 128), (16, 16), 5),
    "first": Case(8, 10, 1, (64,), (64, 64), 3),
    "long": Case(1, 200, 16, (32,), (16, 16), 3),
    "small": Case(2, 4, 64, (64,), (32, 32), 3),
    "1-D": Case(8, 20, 16, (32,), (1024,), 5),
    "3-D": Case(2, 6, 8, (16,), (16, 16, 16), 3),
}
