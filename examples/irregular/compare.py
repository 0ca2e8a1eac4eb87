"""Train a model with durations and the same model without them on the same batches, and print both scores.

Every example draws a figure of the scored batches with `--figure FILE.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from convlstm.torch import ConvLSTM

Batch = tuple[Tensor, Tensor, Tensor]
NAMES = ("without durations", "with durations")
COLOURS = dict(zip(NAMES, ("tab:orange", "tab:blue"), strict=True))


class LastStep(nn.Module):
    """A ConvLSTM, and a 1×1 convolution of its last hidden state."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, *, uses_durations: bool, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        strategy = "mlp" if uses_durations else "none"
        self.layer = ConvLSTM(in_channels, hidden, 3, spatial_dims=spatial_dims, duration_strategy=strategy)
        self.head = (nn.Conv1d, nn.Conv2d)[spatial_dims - 1](hidden, out_channels, 1)
        self.uses_durations = uses_durations

    def forward(self, frames: Tensor, durations: Tensor) -> Tensor:
        """Return the head's output after the last frame."""
        _, (h_n, _) = self.layer(frames, durations=durations if self.uses_durations else None)
        return self.head(h_n[-1])


def compare(
    build: Callable[..., nn.Module],
    sample_batch: Callable[[torch.Generator], Batch],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    score_of: Callable[[Tensor, Tensor], Tensor],
    unit: str,
    draw: Callable[..., None],
    widths: Sequence[float] = (1, 1),
    steps: int = 300,
) -> None:
    """Train both models, print their scores on fresh batches, and draw the figure if its file is given.

    Args:
        build: Returns a model; `uses_durations` is whether it receives durations.
        sample_batch: Returns frames (batch, time, channel, *space), durations (batch, time) and targets.
        loss_of: Loss of output and target.
        score_of: Score of output and target.
        unit: Name and unit of the score.
        draw: Fills the axes of a figure from the scored batches, and the outputs of both models by name.
        widths: Relative widths of the axes of the figure, from left to right.
        steps: Optimiser steps.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path, help="PNG file to draw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fresh = [sample_batch(torch.Generator().manual_seed(100 + n)) for n in range(10)]
    outputs = {}
    for name in NAMES:
        uses_durations = name == "with durations"
        torch.manual_seed(0)
        model = build(uses_durations=uses_durations)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            frames, durations, target = sample_batch(generator)
            loss = loss_of(model(frames, durations), target)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            results = [model(frames, durations) for frames, durations, _ in fresh]
        score = torch.stack([score_of(result, batch[2]) for result, batch in zip(results, fresh, strict=True)]).mean()
        outputs[name] = torch.cat(results)
        print(f"{name}: {score:.4f} {unit}")
    if options.figure is not None:
        scored = tuple(torch.cat(parts) for parts in zip(*fresh, strict=True))
        save_figure(options.figure, widths, lambda axes: draw(axes, scored, outputs))


def save_figure(path: Path, widths: Sequence[float], fill: Callable[..., None]) -> None:
    """Write a PNG file with a row of axes that `fill` draws on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 2.8 if len(widths) == 2 else 1.8), layout="constrained")
    fill(figure.subplots(1, len(widths), width_ratios=widths))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
