"""The recurrence in PyTorch: the plain path, open to every transform, and the choice of the fused one.

Arrays keep PyTorch's layout: `weight_ih` (4·hidden, in/groups, *kernel), `weight_hh` (4·hidden, hidden, *kernel),
`bias` and `norm_scale` (4·hidden), gates in the order i, f, g, o; the rest as in CONTRACT, Weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convlstm.engine.torch import fused
from convlstm.engine.torch.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.torch.convolution import CONVOLUTIONS, needs_two_columns, one_output_column, unambiguous
from convlstm.engine.torch.durations import duration_scale, retention
from convlstm.engine.torch.padding import pad
from convlstm.engine.torch.precision import autocast_dtype, wide_type, without_autocast
from convlstm.spec.geometry import pad_widths, recurrent_pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.options import NORM_EPSILON
from convlstm.spec.stack import ConvLSTMSpec

Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Masks:
    """The random draws of one layer and direction in training (see the reference's `Masks`)."""

    input: Tensor | None = None
    recurrent: Tensor | None = None
    zoneout_h: Tensor | None = None
    zoneout_c: Tensor | None = None


def input_convolution(layer: LayerSpec, weights: Weights, x: Tensor) -> Tensor:
    """Return W_ih ∗ x for all frames at once.

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        x: (frames, in_channels, *space).

    Returns:
        (frames, 4·hidden_channels, *grid), gates in the order i, f, g, o.
    """
    widths = pad_widths(tuple(x.shape[2:]), layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    x = pad(x, widths, layer.stack.boundary)
    convolution = CONVOLUTIONS[layer.stack.spatial_dims]
    hidden, groups = layer.hidden_channels, layer.groups
    weight = weights["weight_ih"]
    if groups > 1:
        # groups act inside each gate, and a fused convolution numbers its outputs group first
        weight = weight.unflatten(0, (4, groups, hidden // groups)).transpose(0, 1).flatten(0, 2)
    stride = list(layer.stride)
    if needs_two_columns(autocast_dtype(weight) or weight.dtype):
        x, stride = one_output_column(x, layer.kernel_size, stride, layer.dilation)
    z = convolution(unambiguous(x), unambiguous(weight), None, stride, 0, layer.dilation, groups)
    if groups > 1:
        z = z.unflatten(1, (groups, 4, hidden // groups)).transpose(1, 2).flatten(1, 3)
    return z


def recurrent_convolution(layer: LayerSpec, weights: Weights, h: Tensor) -> Tensor:
    """Return W_hh ∗ h (batch, 4·hidden_channels, *grid) for h (batch, hidden_channels, *grid)."""
    h = pad(h, recurrent_pad_widths(layer.recurrent_kernel_size), layer.stack.boundary)
    return CONVOLUTIONS[layer.stack.spatial_dims](unambiguous(h), unambiguous(weights["weight_hh"]))


def gates(layer: LayerSpec, weights: Weights, z_x: Tensor | None, h: Tensor, masks: Masks | None = None) -> Tensor:
    """Return z (batch, 4·hidden_channels, *grid) before peepholes: both convolutions, norm and bias."""
    spec = layer.stack
    z = recurrent_convolution(layer, weights, h if masks is None or masks.recurrent is None else h * masks.recurrent)
    z = z if z_x is None else z + z_x
    if spec.norm != "none" and z.numel():
        z = _normalised(z, spec.norm_groups or 1) * _over_grid(weights["norm_scale"], spec)
    return z + _over_grid(weights["bias"], spec).to(z.dtype) if spec.bias else z


def step(
    layer: LayerSpec,
    weights: Weights,
    z_x: Tensor | None,
    state: State,
    *,
    factor: Tensor | None = None,
    kept: Tensor | None = None,
    masks: Masks | None = None,
    t: int = 0,
) -> State:
    """Return the state after one step (equations: `convlstm.reference.recurrence.step`).

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        z_x: W_ih ∗ x_t (batch, 4·hidden_channels, *grid), or None without input.
        state: h and c, each (batch, hidden_channels, *grid); c in float32 where h is in low precision.
        factor: δ, broadcast over the grid.
        kept: What is left of c_{t-1}, likewise.
        masks: Random draws in training.
        t: Step, to pick the zoneout masks.

    Returns:
        h_t and c_t.
    """
    spec, masks = layer.stack, masks or Masks()
    sigma, phi = ACTIVATION_FUNCTIONS[spec.recurrent_activation], ACTIVATION_FUNCTIONS[spec.activation]
    h_before, c_before = state
    c_before = c_before if kept is None else c_before * kept
    z = gates(layer, weights, z_x, h_before, masks)
    z_i, z_f, z_g, z_o = z.chunk(4, dim=1)
    if spec.peephole != "none":
        p_i, p_f, p_o = _peepholes(spec, weights)
        z_i, z_f = z_i + p_i * c_before, z_f + p_f * c_before
    g = phi(z_g)
    c = sigma(z_f) * c_before + sigma(z_i) * (g if factor is None else g * factor)
    o = sigma(z_o + p_o * c if spec.peephole != "none" else z_o)
    h = (o * phi(c)).to(h_before.dtype)
    h = _zoned_out(h_before, h, spec.zoneout_h, None if masks.zoneout_h is None else masks.zoneout_h[t])
    c = _zoned_out(c_before, c, spec.zoneout_c, None if masks.zoneout_c is None else masks.zoneout_c[t])
    return h, c


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor | None,
    state: State | None,
    *,
    steps: int,
    reverse: bool = False,
    mask: Tensor | None = None,
    durations: Tensor | None = None,
    gaps: Tensor | None = None,
    masks: Masks | None = None,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a sequence.

    Args:
        layer: The layer in its strict form.
        weights: Its arrays.
        x: Frames, time first (time, batch, in_channels, *space), or None for a layer without input.
        state: Initial h and c, each (batch, hidden_channels, *grid); None means zeros, where there is an input.
        steps: Number of steps, the length of time.
        reverse: Run from the last step to the first; outputs still stand in input order.
        mask: True where a step is valid (batch, time); None means everywhere.
        durations: Δ (batch, time), for a strategy other than none.
        gaps: Time since the last valid frame (batch, time), for memory decay.
        masks: Random draws in training.

    Returns:
        Outputs, time first (time, batch, hidden_channels, *grid), and the final (h, c).
    """
    if x is not None and mask is not None:
        x = torch.where(_mask_like(mask.transpose(0, 1), x), x, torch.zeros((), dtype=x.dtype, device=x.device))
    if x is not None and masks is not None and masks.input is not None:
        x = x * masks.input
    shape = _state_shape(layer, x, state)
    state = None if state is None else _to_compute_type(weights, state)
    inner = masks is not None and (masks.recurrent, masks.zoneout_h, masks.zoneout_c) != (None, None, None)
    plain = inner or mask is not None or durations is not None or gaps is not None
    if steps and not plain and fused.serves(layer, shape):
        own = {**weights, "weight_hh": weights["weight_hh"].to(_compute_type(weights))}
        return fused.sequence(layer, own, x, state, shape, steps=steps, reverse=reverse, plain=plain_sequence)
    return plain_sequence(
        layer,
        weights,
        x,
        state,
        shape,
        steps=steps,
        reverse=reverse,
        mask=mask,
        durations=durations,
        gaps=gaps,
        masks=masks,
    )


def plain_sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor | None,
    state: State | None,
    shape: tuple[int, ...],
    *,
    steps: int,
    reverse: bool = False,
    mask: Tensor | None = None,
    durations: Tensor | None = None,
    gaps: Tensor | None = None,
    masks: Masks | None = None,
) -> tuple[Tensor, State]:
    """Run the steps one by one and leave every derivative to autograd (arguments: `sequence`; shape: of a state)."""
    state = _to_compute_type(weights, (weights["weight_hh"].new_zeros(shape),) * 2) if state is None else state
    spec = layer.stack
    z_x = None if x is None else input_convolution(layer, weights, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    factors = kept = None
    if durations is not None or gaps is not None:
        with without_autocast(state[0]):  # δ and the decay keep at least float32
            factors = None if durations is None else duration_scale(layer, weights, _clean(durations, mask))
            kept = None if gaps is None else retention(layer, weights, _clean(gaps, mask))
    h, c = state
    nothing = torch.zeros_like(h)
    outputs = [nothing] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        h_new, c_new = step(
            layer,
            weights,
            None if z_x is None else z_x[t],
            (h, c),
            factor=None if factors is None else _over_grid(factors[:, t], spec),
            kept=None if kept is None else _over_grid(kept[:, t], spec),
            masks=masks,
            t=t,
        )
        if mask is None:
            h, c = h_new, c_new
            outputs[t] = h
        else:
            here = _mask_like(mask[:, t], h)
            h, c = torch.where(here, h_new, h), torch.where(here, c_new, c)
            outputs[t] = torch.where(here, h, nothing)
    return torch.stack(outputs) if steps else h.new_empty((0, *h.shape)), (h, c)


def _normalised(z: Tensor, groups: int) -> Tensor:
    wide = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    parts: Tensor = wide.unflatten(1, (4, groups, -1)).flatten(3)
    # F.layer_norm's float64 gradient is off by 2.5e-10 at zero variance; this form is not
    variance, mean = torch.var_mean(parts, dim=3, correction=0, keepdim=True)
    return ((parts - mean) / torch.sqrt(variance + NORM_EPSILON)).reshape(z.shape).to(z.dtype)


def _zoned_out(before: Tensor, after: Tensor, rate: float, mask: Tensor | None) -> Tensor:
    if mask is None and not rate:
        return after
    keep = rate if mask is None else mask.to(before.dtype)
    return keep * before + (1.0 - keep) * after


def _peepholes(spec: ConvLSTMSpec, weights: Weights) -> tuple[Tensor, ...]:
    peephole = weights["peephole"]
    return (peephole if spec.peephole == "pixel" else _over_grid(peephole, spec)).unbind()


def _over_grid(values: Tensor, spec: ConvLSTMSpec) -> Tensor:
    return values.reshape(*values.shape, *(1,) * spec.spatial_dims)


def _mask_like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def _clean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return durations in at least float32; a bad one that nobody could check turns into NaN, never a finite result."""
    wide = values if values.dtype == torch.float64 else values.float()
    wide = wide if mask is None else torch.where(mask, wide, 1.0)
    return torch.where((wide >= 0) & torch.isfinite(wide), wide, torch.nan)


def _state_shape(layer: LayerSpec, x: Tensor | None, state: State | None) -> tuple[int, ...]:
    if state is not None:
        return tuple(state[0].shape)
    assert x is not None, "a layer without input needs a state"
    return (x.shape[1], layer.hidden_channels, *layer.grid(tuple(x.shape[3:])))


def _compute_type(weights: Weights) -> torch.dtype:
    return autocast_dtype(weights["weight_hh"]) or weights["weight_hh"].dtype


def _to_compute_type(weights: Weights, state: State) -> State:
    """Give h the type convolutions run in, and c at least float32."""
    dtype = _compute_type(weights)
    return state[0].to(dtype), state[1].to(wide_type(dtype))
