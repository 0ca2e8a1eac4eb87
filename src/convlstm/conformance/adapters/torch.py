"""How PyTorch computes the random cases (`convlstm.conformance.compare`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convlstm.conformance.compare import TIMES, AnyCase, Arrays, weights_of
from convlstm.conformance.layer_arrays import initial_state, layer_input, layer_times
from convlstm.conformance.random_forecasters import ForecastCase, forecast_results, forecast_state
from convlstm.conformance.random_layers import Case, convert_masks, layer_results
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.types import Array
from convlstm.torch.forecaster import Forecaster
from convlstm.torch.layer import ConvLSTM
from convlstm.torch.weights import load_canonical, native_name

Tensors = dict[str, Tensor]


def run(case: AnyCase, dtype: str, factors: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the results of a case and the gradients of its loss (`convlstm.conformance.compare.Run`)."""
    results, leaves = run_tensors(case, getattr(torch, dtype))
    found = gradients(case, factors, results, leaves)
    return {name: value.detach().double().numpy() for name, value in results.items()}, found


def run_tensors(case: AnyCase, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    """Return the results of a case, and the tensors that gradients are taken of, by the names of the case."""
    return _forecaster(case, dtype) if isinstance(case, ForecastCase) else _layer(case, dtype)


def gradients(case: AnyCase, factors: Arrays, results: Tensors, leaves: Tensors) -> dict[str, Array]:
    """Return the gradient of the case's loss by every array, zeros where it does not enter."""
    loss = sum((torch.tensor(factors[name]) * results[name].double()).sum() for name in results)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    return {
        name: np.zeros(case.arrays[name].shape) if g is None else g.double().numpy().reshape(case.arrays[name].shape)
        for name, g in zip(leaves, found, strict=True)
    }


def _layer(case: Case, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    spec = case.spec
    layer = ConvLSTM.from_spec(spec, dtype=dtype).train(case.masks is not None)
    leaves = _leaves(layer, case, dtype)
    x, steps = layer_input(case, leaves)
    output, (h, c) = layer(
        x,
        initial_state(case, leaves),
        steps=steps,
        mask=None if case.mask is None else torch.tensor(case.mask),
        **layer_times(case, leaves),
        dropout_masks=_masks(case, dtype),
    )
    return layer_results(output, h, c), leaves


def _forecaster(case: ForecastCase, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    model = Forecaster(case.spec, dtype=dtype).eval()
    leaves = _leaves(model, case, dtype)
    optional = {name: leaves.get(name) for name in TIMES}
    mask = None if case.mask is None else torch.tensor(case.mask)
    forecast, (h, c) = model(
        leaves["frames"],
        case.horizon,
        state=forecast_state(case, leaves),
        mask=mask,
        return_state=True,
        **optional,
    )
    return forecast_results(forecast, h, c), leaves


def _leaves(module: ConvLSTM | Forecaster, case: AnyCase, dtype: torch.dtype) -> Tensors:
    """Load the weights, and return every tensor that gradients are taken of, by the names of the case."""
    weights = weights_of(case)
    load_canonical(module, weights)
    parameters = dict(module.named_parameters())
    leaves: Tensors = {name: parameters[native_name(name)] for name in weights}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name in case.arrays.keys() - weights.keys():
        kind = wide if name.startswith((*TIMES, "c.")) else dtype
        leaves[name] = torch.tensor(case.arrays[name], dtype=kind, requires_grad=True)
    return leaves


def _masks(case: Case, dtype: torch.dtype) -> DropoutMasks | None:
    return convert_masks(case, lambda mask: torch.tensor(mask, dtype=dtype))
