"""Frames at an uneven rate: predict the next frame of a moving spot.

A spot drifts at constant speed over a small periodic field. The frames are one to four ticks apart. The last input step
repeats the last frame with a flag; its duration is the time until the frame to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from compare import Batch, LastStep, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES, SIZE = 5, 12


def sample_batch(generator: torch.Generator) -> Batch:
    """Return frames with the flag, ticks since the previous frame, and the next frame."""
    batch = 16
    ticks = torch.randint(1, 5, (batch, FRAMES + 1), generator=generator).float()
    time = ticks.cumsum(1)
    speed = torch.rand(batch, 2, generator=generator) - 0.5
    start = SIZE * torch.rand(batch, 2, generator=generator)
    position = start[:, None] + speed[:, None] * time[:, :, None]
    grid = torch.arange(SIZE, dtype=torch.float32)
    distance = (grid - position[..., None] + SIZE / 2) % SIZE - SIZE / 2  # (batch, time, axis, point), periodic
    spot = torch.exp(-0.25 * (distance[:, :, 0, :, None] ** 2 + distance[:, :, 1, None, :] ** 2))
    inputs = torch.cat([spot[:, :-1], spot[:, -2:-1]], dim=1)
    flag = torch.zeros_like(inputs)
    flag[:, -1] = 1.0
    return torch.stack([inputs, flag], dim=2), ticks, spot[:, -1]


def mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return (output[:, 0] - target).square().mean()


def draw(axes: Sequence[Axes], batch: Batch, outputs: dict[str, torch.Tensor]) -> None:
    """Draw the last three frames, the next one, and both forecasts of it."""
    frames, ticks, target = batch
    time = ticks.cumsum(1)[0] - ticks[0, :-1].sum()
    pictures = {f"t = {time[n]:.0f}": frames[0, n, 0] for n in (2, 3, 4)}
    pictures[f"next, t = {time[-1]:.0f}"] = target[0]
    pictures |= {name: output[0, 0] for name, output in outputs.items()}
    for panel, (title, picture) in zip(axes, pictures.items(), strict=True):
        panel.imshow(picture, vmin=0, vmax=1)
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()


if __name__ == "__main__":
    compare(
        lambda uses_durations: LastStep(2, 16, 1, uses_durations=uses_durations),
        sample_batch,
        mean_square,
        lambda output, target: mean_square(output, target).sqrt(),
        "root mean square error of the next frame",
        draw,
        widths=(1,) * 6,
    )
