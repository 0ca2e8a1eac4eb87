"""The recurrence in PyTorch: the generic implementation, for every transform, and the choice of the fused one.

Arrays keep PyTorch's layout: `weight_ih` (4·hidden, in/groups, *kernel), `weight_hh` (4·hidden, hidden, *kernel),
`bias` and `norm_scale` (4·hidden), gates in the order i, f, g, o; the rest as in `docs/contract.md`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from convlstm.engine.torch import fused, operators
from convlstm.engine.torch.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.torch.convolution import CONVOLUTIONS, contiguous_strides, needs_two_columns, one_output_column
from convlstm.engine.torch.durations import duration_scale, retention
from convlstm.engine.torch.modes import is_jit_traced
from convlstm.engine.torch.padding import pad
from convlstm.engine.torch.precision import autocast_dtype, wide_type, without_autocast
from convlstm.engine.torch.rows import check_stride, rows_of
from convlstm.spec.choices import NORM_EPSILON
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import LayerMasks
from convlstm.spec.options import ConvLSTMSpec

Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]


def input_convolution(layer: LayerSpec, weights: Weights, x: Tensor) -> Tensor:
    """Return W_ih ∗ x (frames, 4·hidden, *grid) for x (frames, in_channels, *space)."""
    widths = pad_widths(tuple(x.shape[2:]), layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    rows = rows_of(layer)
    if rows is not None:
        check_stride(layer, x.shape[2])
    x = pad(x, widths, layer.stack.boundary, rows)
    convolution = CONVOLUTIONS[layer.stack.spatial_dims]
    hidden, groups = layer.hidden_channels, layer.groups
    weight = weights["weight_ih"]
    if groups > 1:
        # groups divide each gate, whereas one convolution of all gates numbers its outputs group first
        weight = weight.unflatten(0, (4, groups, hidden // groups)).transpose(0, 1).flatten(0, 2)
    stride = list(layer.stride)
    if needs_two_columns(autocast_dtype(weight) or weight.dtype):
        x, stride = one_output_column(x, layer.kernel_size, stride, layer.dilation)
    z = convolution(contiguous_strides(x), contiguous_strides(weight), None, stride, 0, layer.dilation, groups)
    if groups > 1:
        z = z.unflatten(1, (groups, 4, hidden // groups)).transpose(1, 2).flatten(1, 3)
    return z


def recurrent_convolution(layer: LayerSpec, weights: Weights, h: Tensor) -> Tensor:
    """Return W_hh ∗ h (batch, 4·hidden, *grid)."""
    h = pad(h, layer.recurrent_widths, layer.stack.boundary, rows_of(layer))
    weight = weights["weight_hh"]
    convolution = CONVOLUTIONS[layer.stack.spatial_dims]
    return convolution(contiguous_strides(h), contiguous_strides(weight), dilation=layer.recurrent_dilation)


def gates(layer: LayerSpec, weights: Weights, z_x: Tensor | None, h: Tensor, masks: LayerMasks | None = None) -> Tensor:
    """Return z (batch, 4·hidden, *grid) before peepholes: both convolutions, norm and bias."""
    spec = layer.stack
    if masks is not None and masks.recurrent is not None:
        h = h * masks.recurrent
    z = recurrent_convolution(layer, weights, h)
    if z_x is not None:
        z = z + z_x
    if spec.norm != "none" and z.numel():
        z = _normalised(z, spec.norm_groups or 1) * _over_grid(weights["norm_scale"], spec)
    return z + _over_grid(weights["bias"], spec).to(z.dtype) if spec.bias else z


def step(
    layer: LayerSpec,
    weights: Weights,
    z_x: Tensor | None,
    state: State,
    *,
    candidate_scale: Tensor | None = None,
    retention: Tensor | None = None,
    masks: LayerMasks | None = None,
) -> State:
    """Return h and c after one step."""
    spec, masks = layer.stack, masks or LayerMasks()
    sigma, phi = ACTIVATION_FUNCTIONS[spec.recurrent_activation], ACTIVATION_FUNCTIONS[spec.activation]
    h_before, c_before = state
    if retention is not None:
        c_before = c_before * retention
    z = gates(layer, weights, z_x, h_before, masks)
    z_i, z_f, z_g, z_o = z.chunk(4, dim=1)
    if spec.peephole != "none":
        p_i, p_f, p_o = _peepholes(spec, weights)
        z_i, z_f = z_i + p_i * c_before, z_f + p_f * c_before
    g = phi(z_g)
    if candidate_scale is not None:
        g = g * candidate_scale
    c = sigma(z_f) * c_before + sigma(z_i) * g
    o = sigma(z_o + p_o * c if spec.peephole != "none" else z_o)
    h = (o * phi(c)).to(h_before.dtype)
    h = _zoneout(h_before, h, spec.zoneout_h, masks.zoneout_h)
    c = _zoneout(c_before, c, spec.zoneout_c, masks.zoneout_c)
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
    masks: LayerMasks | None = None,
    output_mask: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a sequence.

    A segment of a longer sequence needs `output_mask`, the part for its steps of `mask_of_output` for all steps.
    """
    if mask is not None and output_mask is None:
        output_mask = mask_of_output(layer.stack, mask, reverse=reverse)
    if x is not None and mask is not None:
        x = torch.where(_mask_like(mask.transpose(0, 1), x), x, torch.zeros((), dtype=x.dtype, device=x.device))
    if x is not None and masks is not None and masks.input is not None:
        x = x * masks.input
    shape = _state_shape(layer, x, state)
    state = None if state is None else _to_compute_type(weights, state)
    has_state_masks = masks is not None and (masks.recurrent, masks.zoneout_h, masks.zoneout_c) != (None, None, None)
    is_generic = has_state_masks or mask is not None or durations is not None or gaps is not None
    if torch.compiler.is_compiling() and not operators.serve(layer, weights["weight_hh"]):
        is_generic = True
    is_generic = is_generic or rows_of(layer) is not None
    if steps and not is_generic and fused.serves(layer, shape):
        weights = {**weights, "weight_hh": weights["weight_hh"].to(_compute_type(weights))}
        if torch.compiler.is_compiling():
            return operators.sequence(layer, weights, x, state, shape, steps=steps, reverse=reverse)
        return fused.sequence(layer, weights, x, state, shape, steps=steps, reverse=reverse, generic=generic_sequence)
    return generic_sequence(
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
        output_mask=output_mask,
    )


def mask_of_output(spec: ConvLSTMSpec, mask: Tensor, *, reverse: bool) -> Tensor:
    """Return where the output of a step is h and not zero (batch, time); see `convlstm.engine`."""
    if spec.masked_output == "zero":
        return mask
    if reverse:
        return mask.flip(1).cumsum(1).flip(1) > 0
    return mask.cumsum(1) > 0


def generic_sequence(
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
    masks: LayerMasks | None = None,
    output_mask: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run the steps one by one and leave every derivative to autograd; `shape` is that of h and c."""
    if state is None:
        state = _to_compute_type(weights, (weights["weight_hh"].new_zeros(shape),) * 2)
    z_x = candidate_scales = retentions = None
    if x is not None:
        z_x = input_convolution(layer, weights, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    if durations is not None:
        with without_autocast(state[0]):  # δ keeps at least float32
            candidate_scales = duration_scale(layer, weights, _clean(durations, mask))
    if gaps is not None:
        with without_autocast(state[0]):
            retentions = retention(layer, weights, _clean(gaps, mask))
    steps_of = _StepArrays(z_x, candidate_scales, retentions, mask, output_mask)
    if masks is None and isinstance(steps, torch.SymInt) and torch.compiler.is_exporting():
        return _scanned(layer, weights, state, steps_of, reverse=reverse)
    outputs = [torch.zeros_like(state[0])] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        step_masks = None if masks is None else masks.of_step(t)
        outputs[t], state = _masked_step(layer, weights, state, steps_of.at(t), step_masks)
    if torch.is_grad_enabled() and not is_jit_traced():
        # the caller may change in place what a backward pass reads; a trace is compared with one without gradients
        state = (state[0].clone(), state[1].clone())
    return torch.stack(outputs) if steps else state[0].new_empty((0, *state[0].shape)), state


class _StepArrays(NamedTuple):
    """What the steps of a call read other than the state: z of the input (time, batch, ...), the others (batch, time).

    The last two are the mask, and the mask of the outputs.
    """

    z_x: Tensor | None
    candidate_scale: Tensor | None
    retention: Tensor | None
    valid: Tensor | None
    output_valid: Tensor | None

    def at(self, t: int) -> _StepArrays:
        """Return the arrays of one step."""
        z_x, *others = self
        return _StepArrays(None if z_x is None else z_x[t], *(None if a is None else a[:, t] for a in others))


def _masked_step(
    layer: LayerSpec, weights: Weights, state: State, of_step: _StepArrays, masks: LayerMasks | None
) -> tuple[Tensor, State]:
    """Return the output and the state after a step, which leaves the state of masked rows unchanged."""
    spec, (h, c) = layer.stack, state
    h_new, c_new = step(
        layer,
        weights,
        of_step.z_x,
        state,
        candidate_scale=None if of_step.candidate_scale is None else _over_grid(of_step.candidate_scale, spec),
        retention=None if of_step.retention is None else _over_grid(of_step.retention, spec),
        masks=masks,
    )
    if of_step.valid is None or of_step.output_valid is None:
        return h_new, (h_new, c_new)
    valid = _mask_like(of_step.valid, h)
    h, c = torch.where(valid, h_new, h), torch.where(valid, c_new, c)
    return torch.where(_mask_like(of_step.output_valid, h), h, torch.zeros_like(h)), (h, c)


def _scanned(
    layer: LayerSpec, weights: Weights, state: State, steps_of: _StepArrays, *, reverse: bool
) -> tuple[Tensor, State]:
    """Run the steps as one loop of an exported program, whose number of steps is open."""
    from torch._higher_order_ops import scan  # imports the compiler, which takes over a second

    z_x, *others = steps_of
    arrays = {name: a.movedim(1, 0) for name, a in zip(_StepArrays._fields[1:], others, strict=True) if a is not None}
    if z_x is not None:
        arrays["z_x"] = z_x
    absent = dict.fromkeys(_StepArrays._fields)

    def body(carried: State, arrays_of_step: dict[str, Tensor]) -> tuple[State, Tensor]:
        output, (h, c) = _masked_step(layer, weights, carried, _StepArrays(**absent | arrays_of_step), None)
        return (h.clone(), c.clone()), output.clone()  # a loop must not return the same array twice

    # the loop's arrays may not share memory, and have to be contiguous
    carried = tuple(part.clone(memory_format=torch.contiguous_format) for part in state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own steps while it traces the loop
        final, outputs = scan(body, carried, {name: a.contiguous() for name, a in arrays.items()}, reverse=reverse)
    return outputs, final


def _normalised(z: Tensor, groups: int) -> Tensor:
    wide = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    parts: Tensor = wide.unflatten(1, (4, groups, -1)).flatten(3)
    # F.layer_norm's float64 gradient is off by 2.5e-10 at zero variance; this form is not
    variance, mean = torch.var_mean(parts, dim=3, correction=0, keepdim=True)
    return ((parts - mean) / torch.sqrt(variance + NORM_EPSILON)).reshape(z.shape).to(z.dtype)


def _zoneout(before: Tensor, after: Tensor, rate: float, mask: Tensor | None) -> Tensor:
    if mask is None and not rate:
        return after
    share = rate if mask is None else mask.to(before.dtype)
    return share * before + (1.0 - share) * after


def _peepholes(spec: ConvLSTMSpec, weights: Weights) -> tuple[Tensor, ...]:
    peephole = weights["peephole"]
    return (peephole if spec.peephole == "pixel" else _over_grid(peephole, spec)).unbind()


def _over_grid(values: Tensor, spec: ConvLSTMSpec) -> Tensor:
    return values[(..., *(None,) * spec.spatial_dims)]


def _mask_like(mask: Tensor, x: Tensor) -> Tensor:
    return mask[(..., *(None,) * (x.ndim - mask.ndim))]


def _clean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return durations in at least float32; an invalid one becomes NaN, never a finite result."""
    wide = values if values.dtype == torch.float64 else values.float()
    if mask is not None:
        wide = torch.where(mask, wide, 1.0)
    return torch.where((wide >= 0) & torch.isfinite(wide), wide, torch.nan)


def _state_shape(layer: LayerSpec, x: Tensor | None, state: State | None) -> tuple[int, ...]:
    if state is not None:
        return tuple(state[0].shape)
    assert x is not None, "a layer without input needs a state"
    return (x.shape[1], layer.hidden_channels, *layer.grid(tuple(x.shape[3:])))


def _compute_type(weights: Weights) -> torch.dtype:
    return autocast_dtype(weights["weight_hh"]) or weights["weight_hh"].dtype


def _to_compute_type(weights: Weights, state: State) -> State:
    """Return h in the type that convolutions compute in, and c in at least float32."""
    dtype = _compute_type(weights)
    return state[0].to(dtype), state[1].to(wide_type(dtype))
