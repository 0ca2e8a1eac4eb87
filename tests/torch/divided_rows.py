"""One process of `test_row_parts`: `python divided_rows.py RANK BLOCKS FOLDER` runs every case on its block of rows.

BLOCKS are the numbers of rows of the processes, such as 6,8. The results are written to FOLDER. One block alone is the
whole grid, which needs no process group.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.torch import ConvLSTM, Forecaster, divide_rows

STACK: dict[str, Any] = {"in_channels": 2, "hidden_channels": [3, 2], "kernel_size": 3}
LAYERS: dict[str, dict[str, Any]] = {
    "standard": {},
    "wide": {"kernel_size": 5, "recurrent_kernel_size": [[3, 3], [5, 5]], "peephole": "channel"},
    "dilated": {"dilation": 2, "recurrent_dilation": 2},
    "stride": {"stride": 2, "kernel_size": 4, "recurrent_kernel_size": 3},
    "both": {"direction": "bidirectional", "boundary": "circular"},
    "reflect": {"boundary": "reflect", "activation": "relu"},
    "replicate": {"boundary": "replicate", "masked_output": "hold"},
    "cubes": {"spatial_dims": 3},
    "lines": {"spatial_dims": 1, "boundary": "circular"},
}
FORECASTER = {"patch_size": 2, "residual": True}


def main() -> None:
    rank, blocks, folder = int(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")], Path(sys.argv[3])
    if len(blocks) > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=len(blocks))
    first = sum(blocks[:rank])
    part = slice(first, first + blocks[rank])
    results: dict[str, np.ndarray] = {}
    for name, options in LAYERS.items():
        results |= {f"{name}.{key}": array for key, array in run_layer(STACK | options, part, sum(blocks)).items()}
    results |= {f"forecaster.{key}": array for key, array in run_forecaster(part, sum(blocks)).items()}
    np.savez(folder / f"{len(blocks)}.{rank}.npz", **results)
    if dist.is_initialized():
        dist.destroy_process_group()


def run_layer(options: dict[str, Any], part: slice, rows: int) -> dict[str, np.ndarray]:
    """Return output, states, and first and second derivatives of a layer on a part of the rows."""
    torch.manual_seed(0)
    layer = ConvLSTM.from_spec(ConvLSTMSpec(**options), dtype=torch.float64)
    axes = (rows, 7, 6)[: layer.spec.spatial_dims]
    whole = torch.randn(2, 3, 2, *axes, dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    if dist.is_initialized():
        divide_rows(layer, dist.new_group(backend="gloo"))
    x = whole[:, :, :, part].clone().requires_grad_()
    if layer.spec.spatial_dims == 2:  # strides of channels last, which a channel axis at the end gives
        x = x.detach().movedim(2, -1).contiguous().movedim(-1, 2).requires_grad_()
    output, (h_n, c_n) = layer(x, mask=mask if layer.spec.masked_output == "hold" else None)
    loss = (output**2).sum() + sum((c**2).sum() for c in c_n)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + (slope**2).sum()).backward()
    by_rows = {"output": output, "h": h_n[-1], "x": x.grad, "slope": slope}
    by_rows = {name: value.movedim(-len(axes), 0) for name, value in by_rows.items()}
    return {name: value.detach().numpy() for name, value in by_rows.items()} | sums(layer)


def run_forecaster(part: slice, rows: int) -> dict[str, np.ndarray]:
    """Return forecast and gradients of a forecaster on a part of the rows."""
    spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), **FORECASTER)
    torch.manual_seed(0)
    model = Forecaster(spec, dtype=torch.float64)
    whole = torch.randn(2, 3, 1, rows, 8, dtype=torch.float64)
    if dist.is_initialized():
        divide_rows(model)
    forecast = model(whole[:, :, :, part], 2)
    (forecast**2).sum().backward()
    return {"forecast": forecast.detach().movedim(3, 0).numpy()} | sums(model)


def sums(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the gradients of the parameters, added over the processes."""
    gradients = {name: value.grad for name, value in module.named_parameters()}
    for gradient in gradients.values():
        if dist.is_initialized():
            dist.all_reduce(gradient)
    return {f"sum.{name}": gradient.numpy() for name, gradient in gradients.items()}


if __name__ == "__main__":
    main()
