"""Event-based video summary: choose the frame with the fastest motion.

An event camera sends a frame after one to six ticks. The frame to choose is the one that the spot reached at the
greatest speed: its distance from the previous position divided by the duration. Without durations, a slow drift looks
like a jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from compare import COLOURS, Batch, compare
from torch import Tensor, nn

from convlstm.torch import ConvLSTM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES, SIZE = 6, 12


class Scores(nn.Module):
    """A score for every frame, from the hidden state at its step."""

    def __init__(self, *, uses_durations: bool) -> None:
        super().__init__()
        self.layer = ConvLSTM(1, 16, 3, boundary="circular", duration_strategy="mlp" if uses_durations else "none")
        self.head = nn.Linear(16, 1)
        self.uses_durations = uses_durations

    def forward(self, frames: Tensor, durations: Tensor) -> Tensor:
        """Return scores (batch, time)."""
        output, _ = self.layer(frames, durations=durations if self.uses_durations else None)
        return self.head(output.amax(dim=(-2, -1))).squeeze(-1)


def sample_batch(generator: torch.Generator) -> Batch:
    """Return frames, durations in units of three ticks, and the index of the fastest frame."""
    batch = 16
    ticks = torch.randint(1, 7, (batch, FRAMES), generator=generator).float()
    angle = 6.28 * torch.rand(batch, FRAMES, generator=generator)
    moved = 1.0 + 3.0 * torch.rand(batch, FRAMES, generator=generator)
    moved[:, 0] = 0.0
    position = (moved[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)).cumsum(1)
    grid = torch.arange(SIZE, dtype=torch.float32)
    distance = (grid - position[..., None]) % SIZE - SIZE / 2
    frames = torch.exp(-0.3 * (distance[:, :, 0, :, None] ** 2 + distance[:, :, 1, None, :] ** 2))
    return frames.unsqueeze(2), ticks / 3.0, (moved / ticks).argmax(1)


def draw(axes: Sequence[Axes], batch: Batch, outputs: dict[str, Tensor]) -> None:
    """Draw the frames with the ticks before them, and the share that each model gives them."""
    frames, durations, target = batch
    for n, panel in enumerate(axes[:FRAMES]):
        panel.imshow(frames[0, n, 0], vmin=0, vmax=1)
        panel.set_title(f"{n}{'*' if n == target[0] else ''}, ticks: {3 * durations[0, n]:.0f}", fontsize=8)
        panel.set_axis_off()
    for offset, (name, output) in zip((-0.2, 0.2), outputs.items(), strict=True):
        axes[-1].bar(torch.arange(FRAMES) + offset, output[0].softmax(0), 0.4, color=COLOURS[name], label=name)
    axes[-1].set(xlabel="frame", ylabel="share", ylim=(0, 1), xticks=range(FRAMES))
    axes[-1].legend(fontsize=6)


if __name__ == "__main__":
    compare(
        Scores,
        sample_batch,
        nn.functional.cross_entropy,
        lambda output, target: (output.argmax(1) == target).float().mean(),
        f"accuracy (chance: {1 / (FRAMES - 1):.2f})",
        draw,
        widths=(1,) * FRAMES + (3,),
    )
