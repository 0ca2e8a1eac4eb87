"""Frames at an uneven rate: foretell where a moving spot will be at the time of the next frame.

A spot drifts at constant speed over a small globe-like field (its left edge meets its right edge); frames come one to
four ticks apart. The last step repeats the last frame and asks for the next one.
"""

from __future__ import annotations

import torch
from compare import Batch, LastStep, compare

FRAMES, SIZE = 5, 12


def draw(generator: torch.Generator) -> Batch:
    """Return frames and a flag for the question, ticks since the frame before, and the frame to foretell."""
    batch = 16
    ticks = torch.randint(1, 5, (batch, FRAMES + 1), generator=generator).float()
    time = ticks.cumsum(1)
    speed = torch.rand(batch, 2, generator=generator) - 0.5
    start = SIZE * torch.rand(batch, 2, generator=generator)
    place = start[:, None] + speed[:, None] * time[:, :, None]
    grid = torch.arange(SIZE, dtype=torch.float32)
    away = (grid - place[..., None] + SIZE / 2) % SIZE - SIZE / 2  # (batch, time, axis, point), around the field
    spot = torch.exp(-0.25 * (away[:, :, 0, :, None] ** 2 + away[:, :, 1, None, :] ** 2))
    known = torch.cat([spot[:, :-1], spot[:, -2:-1]], dim=1)
    question = torch.zeros_like(known)
    question[:, -1] = 1.0
    return torch.stack([known, question], dim=2), ticks, spot[:, -1]


def mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return (output[:, 0] - target).square().mean()


if __name__ == "__main__":
    compare(
        lambda aware: LastStep(2, 16, 1, aware=aware),
        draw,
        mean_square,
        lambda output, target: mean_square(output, target).sqrt(),
        "root mean square error of the next frame",
    )
