"""Durations in PyTorch: the scale δ of the candidate, and the retention of c after a gap."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.engine.torch.activations import ACTIVATION_FUNCTIONS
from convlstm.errors import ShapeError
from convlstm.spec.durations import network_sizes
from convlstm.spec.layer import LayerSpec

Weights = Mapping[str, Tensor]


def duration_scale(layer: LayerSpec, weights: Weights, durations: Tensor) -> Tensor:
    """Return δ(Δ), the factor on the candidate (batch, time, 1 or hidden)."""
    spec = layer.stack
    r = durations[..., None] / spec.reference_duration
    if callable(spec.duration_strategy):
        return _checked(torch.as_tensor(spec.duration_strategy(r)), r, layer.hidden_channels)
    if spec.duration_strategy == "linear":
        return r
    if spec.duration_strategy == "log":
        return torch.log(r + spec.duration_eps) + 1.0
    if spec.duration_strategy == "log1p":
        return torch.log1p(r) / torch.log(torch.tensor(2.0, dtype=r.dtype, device=r.device))
    # unlike a clamp, this keeps NaN and has gradient 0 at and below ε
    log_r = torch.log(torch.where(r <= spec.duration_eps, torch.full_like(r, spec.duration_eps), r))
    if spec.duration_strategy == "scalar":
        return torch.exp(weights["duration.weight"].to(r.dtype) * log_r)
    s = _network(layer, weights, log_r)
    return torch.exp(spec.duration_damping * s) if spec.duration_strategy == "exp" else 1.0 + s


def retention(layer: LayerSpec, weights: Weights, gaps: Tensor) -> Tensor:
    """Return the factor on c after a gap (batch, time, hidden)."""
    q = gaps[..., None] / layer.stack.reference_duration
    excess = torch.where(q <= 1.0, torch.zeros_like(q), q - 1.0)
    return torch.exp(-F.softplus(weights["memory_decay"].to(q.dtype)) * excess)


def _network(layer: LayerSpec, weights: Weights, x: Tensor) -> Tensor:
    phi = ACTIVATION_FUNCTIONS[layer.stack.duration_activation]
    count = len(network_sizes(layer))
    for n in range(count):
        weight, bias = (weights[f"duration.{n}.{part}"].to(x.dtype) for part in ("weight", "bias"))
        x = F.linear(x, weight, bias)
        x = phi(x) if n < count - 1 else x
    return x


def _checked(scale: Tensor, r: Tensor, hidden: int) -> Tensor:
    """Return a user's δ if it has the right axes: others would be silently broadcast over channels."""
    if tuple(scale.shape) in ((*r.shape[:-1], 1), (*r.shape[:-1], hidden)):
        return scale
    raise ShapeError(
        "duration_strategy",
        expected=f"a function whose result is (batch, time, 1 or {hidden}), for durations {tuple(r.shape)}",
        received=f"shape {tuple(scale.shape)}",
        hint="Return an array with the axes of the argument.",
    )
