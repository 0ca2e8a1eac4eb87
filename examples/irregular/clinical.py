"""Clinical vital signs at uneven times: predict the next reading.

Six vital signs of a patient return to their baselines after a disturbance, each at its own rate. The readings are half
an hour to eight hours apart. Adjacent signs are coupled, which a one-dimensional ConvLSTM can use. The last input step
repeats the last reading with a flag; its duration is the time until the reading to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from compare import COLOURS, Batch, LastStep, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READINGS, SIGNS = 6, 6


def sample_batch(generator: torch.Generator) -> Batch:
    """Return readings with the flag, hours since the previous reading, and the next reading."""
    batch = 64
    pauses = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    hours = pauses[torch.randint(len(pauses), (batch, READINGS + 1), generator=generator)]
    hours[:, 0] = 0.0
    time = hours.cumsum(1)[:, :, None]
    pace = 0.02 + 0.1 * torch.rand(batch, 1, 1, generator=generator) * torch.linspace(0.5, 1.5, SIGNS)
    start = torch.randn(batch, 1, SIGNS, generator=generator)
    start = start + 0.5 * start.roll(1, dims=2)
    vitals = start * torch.exp(-pace * time) + 0.02 * torch.randn(batch, READINGS + 1, SIGNS, generator=generator)
    inputs = torch.cat([vitals[:, :-1], vitals[:, -2:-1]], dim=1)
    flag = torch.zeros_like(inputs)
    flag[:, -1] = 1.0
    return torch.stack([inputs, flag], dim=2), hours, vitals[:, -1]


def mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return (output[:, 0] - target).square().mean()


def draw(axes: Sequence[Axes], batch: Batch, outputs: dict[str, torch.Tensor]) -> None:
    """Draw one sign of a patient with both predictions, and the error by time until the reading."""
    (frames, hours, target), (series, errors) = batch, axes
    time = hours.cumsum(1)[0]
    series.plot(time[:-1], frames[0, :-1, 0, 2], "o-", color="grey", label="readings")
    series.plot(time[-1], target[0, 2], "k*", markersize=12, label="next reading")
    series.set(xlabel="hours", ylabel="vital sign")
    waits = hours[:, -1].unique()
    for name, output in outputs.items():
        series.plot(time[-1], output[0, 0, 2], "D", color=COLOURS[name], label=name)
        by_wait = [mean_square(output[hours[:, -1] == wait], target[hours[:, -1] == wait]).sqrt() for wait in waits]
        errors.plot(waits, by_wait, "o-", color=COLOURS[name], label=name)
    errors.set(xlabel="hours until the reading", ylabel="root mean square error", ylim=(0, None))
    series.legend(fontsize=8)


if __name__ == "__main__":
    compare(
        lambda uses_durations: LastStep(2, 24, 1, uses_durations=uses_durations, spatial_dims=1),
        sample_batch,
        mean_square,
        lambda output, target: mean_square(output, target).sqrt(),
        "root mean square error, in units of the disturbance",
        draw,
    )
