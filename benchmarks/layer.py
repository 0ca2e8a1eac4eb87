"""Training step and forward pass of `convlstm.torch.ConvLSTM` beside the common cell, as ratios of one run.

The common cell concatenates x and h and convolves both at every step, as most repositories do. Both take turns, so
that a drift of the machine meets both; the figure is the median of ours / median of the peer's, lower is better.

    python benchmarks/layer.py --repeats 7
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from convlstm.torch import ConvLSTM

CASES = {  # name: batch, time, in_channels, hidden_channels, size, kernel
    "wide": (8, 10, 64, 64, 64, 3),
    "paper": (8, 10, 16, 128, 16, 5),
    "openstl": (16, 19, 128, 128, 16, 5),
    "first": (8, 10, 1, 64, 64, 3),
    "small": (1, 10, 16, 32, 32, 3),
}


class CommonLayer(nn.Module):
    """One layer of the concatenating cell, unrolled in Python."""

    def __init__(self, in_channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.convolution = nn.Conv2d(in_channels + hidden, 4 * hidden, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, height, width = x.shape
        h = c = x.new_zeros(batch, self.hidden, height, width)
        outputs = []
        for frame in x.unbind(1):
            i, f, o, g = self.convolution(torch.cat([frame, h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {options.repeats}")
    print(f"{'case':10}{'type':8}{'work':10}{'ours s':>10}{'peer s':>10}{'peer cl s':>10}{'ratio':>8}")
    for case in options.cases:
        for autocast in (False, True):
            for train in (False, True):
                compare(case, autocast, train, options.repeats)


def compare(case: str, autocast: bool, train: bool, repeats: int) -> None:
    batch, steps, in_channels, hidden, size, kernel = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(batch, steps, in_channels, size, size)
    ours, peer = ConvLSTM(in_channels, hidden, kernel), CommonLayer(in_channels, hidden, kernel)
    peer_last = CommonLayer(in_channels, hidden, kernel).to(memory_format=torch.channels_last)
    runs = [
        work(lambda: ours(x)[0], ours, autocast, train),
        work(lambda: peer(x), peer, autocast, train),
        work(lambda: peer_last(x), peer_last, autocast, train),
    ]
    for run in runs:
        run()
    times: list[list[float]] = [[], [], []]
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    ours_s, peer_s, last_s = (statistics.median(taken) for taken in times)
    kind, what = "bf16" if autocast else "fp32", "train" if train else "forward"
    ratio = ours_s / min(peer_s, last_s)
    print(f"{case:10}{kind:8}{what:10}{ours_s:10.4f}{peer_s:10.4f}{last_s:10.4f}{ratio:8.2f}", flush=True)


def work(forward: Callable[[], Tensor], module: nn.Module, autocast: bool, train: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(train):
            output = forward().float()
            loss = torch.nn.functional.mse_loss(output, torch.zeros((), dtype=output.dtype).expand_as(output))
        if train:
            module.zero_grad(set_to_none=True)
            loss.backward()

    return run


if __name__ == "__main__":
    main()
