"""Measure the rounding error of Winograd convolution and of direct convolution, in PyTorch on a CPU.

    python -m benchmarks.winograd_rounding

For three layers, the script prints the largest and the root mean square difference of the float32 outputs from float64.
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
        outputs = {}
        with torch.no_grad():
            winograd._MIN_SAVED_PER_STEP = 0
            outputs["Winograd"] = layer(x)[0]
            winograd._MIN_SAVED_PER_STEP = 1 << 62
            outputs["direct"] = layer(x)[0]
            exact = layer.double()(x.double())[0]
        for kind, output in outputs.items():
            difference = output.double() - exact
            print(
                f"{name:8s} {kind:9s} largest {difference.abs().max():.1e}  rms {difference.pow(2).mean().sqrt():.1e}"
            )


if __name__ == "__main__":
    main()
