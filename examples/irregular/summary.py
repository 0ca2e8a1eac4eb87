"""Event-based video summary: choose the frame in which things happened fastest.

An event camera sends a frame whenever something has moved far enough, after one to six ticks. The frame for the summary
is the one that was reached at the greatest speed: how far the spot moved, over how long that took. Who does not see
the time between frames takes a slow drift for a jump.
"""

from __future__ import annotations

import torch
from compare import Batch, compare
from torch import Tensor, nn

from convlstm.torch import ConvLSTM

FRAMES, SIZE = 6, 12


class Scores(nn.Module):
    """A score for every frame, from the hidden state at its step."""

    def __init__(self, *, aware: bool) -> None:
        super().__init__()
        self.layer = ConvLSTM(1, 16, 3, boundary="circular", duration_strategy="mlp" if aware else "none")
        self.head = nn.Linear(16, 1)
        self.aware = aware

    def forward(self, frames: Tensor, durations: Tensor) -> Tensor:
        """Return scores (batch, time)."""
        output, _ = self.layer(frames, durations=durations if self.aware else None)
        return self.head(output.amax(dim=(-2, -1))).squeeze(-1)


def draw(generator: torch.Generator) -> Batch:
    """Return frames, ticks since the frame before, and the number of the fastest frame."""
    batch = 16
    ticks = torch.randint(1, 7, (batch, FRAMES), generator=generator).float()
    angle = 6.28 * torch.rand(batch, FRAMES, generator=generator)
    moved = 1.0 + 3.0 * torch.rand(batch, FRAMES, generator=generator)
    moved[:, 0] = 0.0
    place = (moved[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)).cumsum(1)
    grid = torch.arange(SIZE, dtype=torch.float32)
    away = (grid - place[..., None]) % SIZE - SIZE / 2
    frames = torch.exp(-0.3 * (away[:, :, 0, :, None] ** 2 + away[:, :, 1, None, :] ** 2))
    return frames.unsqueeze(2), ticks / 3.0, (moved / ticks).argmax(1)


if __name__ == "__main__":
    compare(
        Scores,
        draw,
        nn.functional.cross_entropy,
        lambda output, target: (output.argmax(1) == target).float().mean(),
        f"of frames chosen right (chance: {1 / (FRAMES - 1):.2f})",
    )
