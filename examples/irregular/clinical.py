"""Clinical series with irregular vitals: foretell a reading at the hour when it will be taken.

Six vital signs of a patient move back to their baseline after a disturbance, each at its own pace; readings are taken
after uneven pauses of half an hour to eight hours. Neighbours in the row of signs are coupled, which a one-dimensional
ConvLSTM can use. The last step repeats the last reading and asks for the next; its duration is the pause until then.
"""

from __future__ import annotations

import torch
from compare import Batch, LastStep, compare

READINGS, SIGNS = 6, 6


def draw(generator: torch.Generator) -> Batch:
    """Return readings and a flag for the question, hours since the reading before, and the next reading."""
    batch = 64
    pauses = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    hours = pauses[torch.randint(len(pauses), (batch, READINGS + 1), generator=generator)]
    hours[:, 0] = 0.0
    time = hours.cumsum(1)[:, :, None]
    pace = 0.02 + 0.1 * torch.rand(batch, 1, 1, generator=generator) * torch.linspace(0.5, 1.5, SIGNS)
    start = torch.randn(batch, 1, SIGNS, generator=generator)
    start = start + 0.5 * start.roll(1, dims=2)
    vitals = start * torch.exp(-pace * time) + 0.02 * torch.randn(batch, READINGS + 1, SIGNS, generator=generator)
    known = torch.cat([vitals[:, :-1], vitals[:, -2:-1]], dim=1)
    question = torch.zeros_like(known)
    question[:, -1] = 1.0
    return torch.stack([known, question], dim=2), hours, vitals[:, -1]


def mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return (output[:, 0] - target).square().mean()


if __name__ == "__main__":
    compare(
        lambda aware: LastStep(2, 24, 1, aware=aware, spatial_dims=1),
        draw,
        mean_square,
        lambda output, target: mean_square(output, target).sqrt(),
        "root mean square error, in units of the disturbance",
    )
