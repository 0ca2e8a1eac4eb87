"""Robot motion with variable time steps: predict the position of an arm's tip.

A camera sees a two-link arm whose joints turn at constant rates. The pictures arrive 20 to 200 ms apart. The input has
five of them, and repeats the last one with a flag; the duration of that step is the time until the position to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from compare import COLOURS, Batch, LastStep, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRAMES, SIZE = 5, 16
LINKS_CM = (30.0, 25.0)


def sample_batch(generator: torch.Generator) -> Batch:
    """Return pictures of tip and elbow with the flag, durations in tenths of a second, and the tip in metres."""
    batch = 16
    seconds = 0.02 + 0.18 * torch.rand(batch, FRAMES + 1, generator=generator)
    rates = 6.0 * (torch.rand(batch, 1, 2, generator=generator) - 0.5)
    angles = 6.28 * torch.rand(batch, 1, 2, generator=generator) + rates * seconds.cumsum(1)[:, :, None]
    elbow = LINKS_CM[0] * torch.stack([angles[..., 0].cos(), angles[..., 0].sin()], dim=-1)
    bend = angles.sum(-1)
    tip = elbow + LINKS_CM[1] * torch.stack([bend.cos(), bend.sin()], dim=-1)
    points = torch.stack([tip, elbow], dim=2)  # (batch, time, point, axis)
    grid = torch.linspace(-60.0, 60.0, SIZE)
    distance = (grid - points[..., None]) / 10.0
    pictures = torch.exp(-0.5 * (distance[..., 0, :, None] ** 2 + distance[..., 1, None, :] ** 2))
    inputs = torch.cat([pictures[:, :-1], pictures[:, -2:-1]], dim=1)
    flag = torch.zeros_like(inputs[:, :, :1])
    flag[:, -1] = 1.0
    return torch.cat([inputs, flag], dim=2), seconds / 0.1, tip[:, -1] / 100.0


def position(output: torch.Tensor) -> torch.Tensor:
    """Return the mean position (batch, 2) of the tip in metres, for a map of logits."""
    share = output[:, 0].flatten(1).softmax(1).unflatten(1, (SIZE, SIZE))
    grid = torch.linspace(-0.6, 0.6, SIZE)
    return torch.stack([(share.sum(2) * grid).sum(1), (share.sum(1) * grid).sum(1)], dim=1)


def draw(axes: Sequence[Axes], batch: Batch, outputs: dict[str, torch.Tensor]) -> None:
    """Draw the last picture with the tip to predict and both predictions, and the error by duration."""
    (frames, durations, target), (scene, errors) = batch, axes
    scene.imshow(frames[0, -1, 0].T, cmap="Greys", extent=(-0.64, 0.64, -0.64, 0.64), origin="lower")
    scene.plot(*target[0], "k*", markersize=12)
    for name, output in outputs.items():
        scene.plot(*position(output)[0], "D", color=COLOURS[name], label=name)
        error = 100.0 * (position(output) - target).norm(dim=1)
        errors.plot(100.0 * durations[:, -1], error, ".", color=COLOURS[name], alpha=0.4)
        groups = (durations[:, -1] / 0.3).long()  # of 30 ms
        means = [error[groups == number].mean() for number in groups.unique()]
        errors.plot(30.0 * groups.unique() + 15.0, means, color=COLOURS[name], linewidth=2, label=name)
    scene.set(xlabel="metres", ylabel="metres", title="tip to predict: ★")
    errors.set(xlabel="ms until the position", ylabel="cm from the tip", ylim=(0, None))
    errors.legend(fontsize=8)


if __name__ == "__main__":
    compare(
        lambda uses_durations: LastStep(3, 16, 1, uses_durations=uses_durations),
        sample_batch,
        lambda output, target: (position(output) - target).square().sum(1).mean() * 100.0,
        lambda output, target: 100.0 * (position(output) - target).norm(dim=1).mean(),
        "cm from the tip",
        draw,
    )
