"""Dropout in PyTorch's own terms; what every frontend does is in `tests/frontends`."""

from __future__ import annotations

import torch

from convlstm import ConvLSTMSpec, DropoutMasks
from convlstm.torch import ConvLSTM
from convlstm.torch.dropout import BatchPart, sample_masks


def test_no_rate_leaves_the_generator_as_it_is() -> None:
    spec = ConvLSTMSpec(in_channels=4, hidden_channels=[8, 6], kernel_size=3)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample_masks(spec, torch.zeros(5, 3, 4, 8, 8), (8, 8), 5, generator) is None
    assert torch.equal(generator.get_state(), before)


def test_rows_of_a_batch_get_the_masks_of_the_whole_batch() -> None:
    spec = ConvLSTMSpec(
        in_channels=4, hidden_channels=[8, 6], kernel_size=3, dropout=0.3, recurrent_dropout=0.2, zoneout_c=0.1
    )

    def masks(source: torch.Generator | BatchPart, rows: int) -> DropoutMasks:
        sampled = sample_masks(spec, torch.zeros(5, rows, 4, 8, 8), (8, 8), 5, source)
        assert sampled is not None
        return sampled

    whole = masks(torch.Generator().manual_seed(3), 6)
    part = masks(BatchPart(torch.Generator().manual_seed(3), first=4, batch_size=6), 2)
    assert torch.equal(part.dropout[0], whole.dropout[0][:, 4:])
    for place, layer in part.masks.items():
        assert torch.equal(layer.recurrent, whole.masks[place].recurrent[4:])
        assert torch.equal(layer.zoneout_c, whole.masks[place].zoneout_c[:, 4:])


def test_it_learns_to_remember() -> None:
    """The layer recalls the first of six frames, which no convolution over the last one could."""
    torch.manual_seed(0)
    layer = ConvLSTM(1, 8, 3)
    head = torch.nn.Conv2d(8, 1, 1)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], 1e-2)
    losses = []
    for _ in range(120):
        x = torch.randn(8, 6, 1, 6, 6)
        loss = (head(layer(x)[0][:, -1]) - x[:, 0]).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.8  # the variance of what is to be recalled is 1
    assert sum(losses[-10:]) / 10 < 0.35
