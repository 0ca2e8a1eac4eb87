"""Rounding of Winograd's convolution beside the plain one, in PyTorch on a CPU: outputs in float32 against float64.

    python benchmarks/winograd_rounding.py

Prints, for three layers, the largest and the root mean square difference of either from float64.
"""

from __future__ import annotations

import torch

from benchmarks.speed.cases import CASES
from convlstm.engine.torch import winograd_rule as winograd
from convlstm.torch import ConvLSTM


def main() -> None:
    for name, batch in (("wide", 4), ("paper", 8), ("openstl", 2)):
        case = CASES[name]
        torch.manual_seed(0)
        layer = ConvLSTM(case.channels, list(case.hidden), case.kernel)
        x = torch.randn(batch, case.steps, case.channels, *case.size)
        found = {}
        with torch.no_grad():
            winograd._MIN_SAVED_PER_STEP = 0
            found["Winograd"] = layer(x)[0]
            winograd._MIN_SAVED_PER_STEP = 1 << 62
            found["plain"] = layer(x)[0]
            exact = layer.double()(x.double())[0]
        for kind, output in found.items():
            off = output.double() - exact
            print(f"{name:8s} {kind:9s} most {off.abs().max():.1e}  rms {off.pow(2).mean().sqrt():.1e}")


if __name__ == "__main__":
    main()
