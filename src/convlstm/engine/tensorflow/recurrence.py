"""The recurrence in TensorFlow, in eager mode, in a graph and under XLA, with every option.

Arrays are channels last, as Keras has them: `weight_ih` (*kernel, in/groups, 4·hidden), `weight_hh` (*kernel, hidden,
4·hidden), `bias` and `norm_scale` (4·hidden), gates in the order i, f, g, o; `peephole` (3, hidden) or (3, *grid,
hidden), `duration.{n}.weight` (in, out); the rest as in `docs/contract.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod
from typing import Any

import tensorflow as tf

from convlstm.engine.tensorflow import fused
from convlstm.engine.tensorflow.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.tensorflow.convolution import convolve, convolve_state
from convlstm.engine.tensorflow.padding import input_widths, pad, sizes, state_grid
from convlstm.engine.tensorflow.shapes import over_grid, swapped, unstacked
from convlstm.spec.choices import NORM_EPSILON
from convlstm.spec.durations import network_sizes
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import LayerMasks

Tensor = Any
Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]


def input_convolution(layer: LayerSpec, weights: Weights, x: Tensor) -> Tensor:
    """Return W_ih ∗ x (frames, *grid, 4·hidden) for x (frames, *space, in_channels)."""
    x = pad(x, input_widths(layer, sizes(x)[1:-1]), layer.stack.boundary)
    weight, hidden, groups = weights["weight_ih"], layer.hidden_channels, layer.groups
    if groups == 1:
        return convolve(x, weight, layer.stride, layer.dilation)
    # groups divide each gate, whereas one convolution of all gates numbers its outputs group first
    lead = weight.shape.as_list()[:-1]
    weight = tf.reshape(swapped(tf.reshape(weight, (*lead, 4, groups, hidden // groups))), (*lead, 4 * hidden))
    z = convolve(x, weight, layer.stride, layer.dilation, groups)
    shape = sizes(z)[:-1]
    return tf.reshape(swapped(tf.reshape(z, (*shape, groups, 4, hidden // groups))), (*shape, 4 * hidden))


def recurrent_convolution(layer: LayerSpec, weights: Weights, h: Tensor) -> Tensor:
    """Return W_hh ∗ h (batch, *grid, 4·hidden)."""
    h, kernel = pad(h, layer.recurrent_widths, layer.stack.boundary), weights["weight_hh"]
    if layer.has_dense_recurrence:
        return convolve_state(h, kernel)
    return convolve(h, kernel, (1,) * layer.stack.spatial_dims, layer.recurrent_dilation)


def duration_scale(layer: LayerSpec, weights: Weights, durations: Tensor) -> Tensor:
    """Return δ(Δ), the factor on the candidate (batch, time, 1 or hidden)."""
    spec = layer.stack
    r = durations[..., None] / spec.reference_duration
    if callable(spec.duration_strategy):
        return tf.convert_to_tensor(spec.duration_strategy(r))
    if spec.duration_strategy == "linear":
        return r
    if spec.duration_strategy == "log":
        return tf.math.log(r + spec.duration_eps) + 1.0
    if spec.duration_strategy == "log1p":
        return tf.math.log1p(r) / log(2.0)
    # unlike maximum, this keeps NaN and has gradient 0 at and below ε
    log_r = tf.math.log(tf.where(r <= spec.duration_eps, tf.constant(spec.duration_eps, r.dtype), r))
    if spec.duration_strategy == "scalar":
        return tf.exp(tf.cast(weights["duration.weight"], r.dtype) * log_r)
    s = _network(layer, weights, log_r)
    return tf.exp(spec.duration_damping * s) if spec.duration_strategy == "exp" else 1.0 + s


def retention(layer: LayerSpec, weights: Weights, gaps: Tensor) -> Tensor:
    """Return the factor on c after a gap (batch, time, hidden)."""
    q = gaps[..., None] / layer.stack.reference_duration
    excess = tf.where(q <= 1.0, tf.zeros((), q.dtype), q - 1.0)
    return tf.exp(-tf.nn.softplus(tf.cast(weights["memory_decay"], q.dtype)) * excess)


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
    wide = c_before.dtype
    if retention is not None:
        c_before = c_before * tf.cast(retention, wide)
    z_i, z_f, z_g, z_o = tf.split(_gates(layer, weights, z_x, h_before, masks, wide), 4, axis=-1)
    peepholes = None
    if spec.peephole != "none":
        peepholes = tf.unstack(tf.cast(weights["peephole"], wide))
        z_i, z_f = z_i + peepholes[0] * c_before, z_f + peepholes[1] * c_before
    g = phi(z_g)
    if candidate_scale is not None:
        g = g * tf.cast(candidate_scale, wide)
    c = sigma(z_f) * c_before + sigma(z_i) * g
    o = sigma(z_o if peepholes is None else z_o + peepholes[2] * c)
    h = tf.cast(o * phi(c), h_before.dtype)
    h = _zoneout(h_before, h, spec.zoneout_h, masks.zoneout_h)
    return h, _zoneout(c_before, c, spec.zoneout_c, masks.zoneout_c)


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor | None,
    state: State | None,
    *,
    steps: Any,
    reverse: bool = False,
    mask: Tensor | None = None,
    durations: Tensor | None = None,
    gaps: Tensor | None = None,
    masks: LayerMasks | None = None,
    training: bool = False,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a sequence; `training` says that a gradient will be taken.

    Convolutions run in the type of `weight_hh`. `steps` is a tensor where it is only known when the graph runs.
    """
    starts_at_zero = state is None
    if state is None:
        state = _zero_state(layer, weights, x)
    state = _to_compute_type(weights, state)
    if isinstance(steps, int) and steps == 0:
        return tf.zeros((0, *sizes(state[0])), state[0].dtype), state
    masks, rank = masks or LayerMasks(), layer.stack.spatial_dims
    valid = None if mask is None else over_grid(tf.transpose(mask), rank + 1)
    if x is not None:
        x = _masked_frames(weights, x, valid, masks.input)
    generic_options = (masks.recurrent, masks.zoneout_h, masks.zoneout_c, mask, durations, gaps)
    is_generic = any(option is not None for option in generic_options) or not fused.serves(layer)
    if x is not None and not is_generic and fused.has_correct_kernels(layer, sizes(x)[2:-1], x.dtype):
        return fused.sequence(
            layer,
            weights,
            x,
            state,
            steps=steps,
            reverse=reverse,
            zero_initial_state=starts_at_zero,
            training=training,
        )
    z_x = candidate_scales = retentions = None
    if x is not None:
        z_x = _input_terms(layer, weights, x)
    if durations is not None:
        candidate_scales = _time_first(duration_scale(layer, weights, _clean(durations, mask)), rank)
    if gaps is not None:
        retentions = _time_first(retention(layer, weights, _clean(gaps, mask)), rank)
    step_inputs = {
        "z_x": z_x,
        "candidate_scale": candidate_scales,
        "retention": retentions,
        "valid": valid,
        "output_mask": None if mask is None else _mask_of_output(layer, mask, reverse=reverse),
        "zoneout_h": masks.zoneout_h,
        "zoneout_c": masks.zoneout_c,
    }
    return _loop(layer, weights, state, steps, reverse, masks.recurrent, step_inputs)


def _loop(
    layer: LayerSpec,
    weights: Weights,
    state: State,
    steps: Any,
    reverse: bool,
    recurrent_mask: Tensor | None,
    step_inputs: Mapping[str, Tensor | None],
) -> tuple[Tensor, State]:
    """Run the steps; the inputs of all steps are arrays, time first."""
    # reading an array of steps has a cheap gradient; that of a slice inside a loop is as long as the sequence
    arrays = {name: unstacked(a, steps) for name, a in step_inputs.items() if a is not None}
    h, c = state
    outputs = tf.TensorArray(h.dtype, size=steps, element_shape=h.shape)

    def body(n: Tensor, h: Tensor, c: Tensor, outputs: Any) -> tuple[Any, ...]:
        t = steps - 1 - n if reverse else n
        inputs = {name: array.read(t) for name, array in arrays.items()}
        h_new, c_new = step(
            layer,
            weights,
            inputs.get("z_x"),
            (h, c),
            candidate_scale=inputs.get("candidate_scale"),
            retention=inputs.get("retention"),
            masks=LayerMasks(None, recurrent_mask, inputs.get("zoneout_h"), inputs.get("zoneout_c")),
        )
        output = h_new
        if "valid" in inputs:
            valid_t = inputs["valid"]
            h_new, c_new = tf.where(valid_t, h_new, h), tf.where(valid_t, c_new, c)
            output = tf.where(inputs["output_mask"], h_new, tf.zeros_like(h))
        return n + 1, h_new, c_new, outputs.write(t, output)

    start = (tf.constant(0), h, c, outputs)
    _, h, c, outputs = tf.while_loop(lambda n, *_: n < steps, body, start, maximum_iterations=steps)
    return outputs.stack(), (h, c)


def _mask_of_output(layer: LayerSpec, mask: Tensor, *, reverse: bool) -> Tensor:
    """Return where the output of a step is h and not zero, time first, to broadcast over a grid."""
    if layer.stack.masked_output == "hold":
        mask = tf.cumsum(tf.cast(mask, tf.int32), axis=1, reverse=reverse) > 0
    return over_grid(tf.transpose(mask), layer.stack.spatial_dims + 1)


def _masked_frames(weights: Weights, x: Tensor, valid: Tensor | None, input_mask: Tensor | None) -> Tensor:
    """Return frames in the type to compute in, zero where they are not valid, with input dropout."""
    x = tf.cast(x, weights["weight_ih"].dtype)
    if valid is not None:
        x = tf.where(valid, x, tf.zeros((), x.dtype))
    return x if input_mask is None else x * tf.cast(input_mask, x.dtype)


def _time_first(values: Tensor, rank: int) -> Tensor:
    """Return values (batch, time, channels) time first, to broadcast over a grid."""
    return over_grid(tf.transpose(values, (1, 0, 2)), rank)


def _input_terms(layer: LayerSpec, weights: Weights, x: Tensor) -> Tensor:
    """Return W_ih ∗ x (time, batch, *grid, 4·hidden)."""
    steps, batch, *space = sizes(x)
    z = input_convolution(layer, weights, tf.reshape(x, (steps * batch, *space)))
    return tf.reshape(z, (steps, batch, *sizes(z)[1:]))


def _gates(
    layer: LayerSpec, weights: Weights, z_x: Tensor | None, h: Tensor, masks: LayerMasks, wide: tf.DType
) -> Tensor:
    """Return z before peepholes: both convolutions, norm and bias."""
    spec = layer.stack
    if masks.recurrent is not None:
        h = h * tf.cast(masks.recurrent, h.dtype)
    z = recurrent_convolution(layer, weights, h)
    z = tf.cast(z if z_x is None else z + z_x, wide)
    if spec.norm != "none":
        z = _normalised(z, layer.hidden_channels, spec.norm_groups or 1) * tf.cast(weights["norm_scale"], wide)
    return z + tf.cast(weights["bias"], wide) if spec.bias else z


def _normalised(z: Tensor, hidden: int, groups: int) -> Tensor:
    shape = sizes(z)
    parts = tf.reshape(z, (shape[0], prod(shape[1:-1]), 4, groups, hidden // groups))
    centred = parts - tf.reduce_mean(parts, axis=(1, 4), keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=(1, 4), keepdims=True)
    return tf.reshape(centred / tf.sqrt(variance + NORM_EPSILON), shape)


def _network(layer: LayerSpec, weights: Weights, x: Tensor) -> Tensor:
    phi = ACTIVATION_FUNCTIONS[layer.stack.duration_activation]
    count = len(network_sizes(layer))
    for n in range(count):
        weight, bias = (tf.cast(weights[f"duration.{n}.{part}"], x.dtype) for part in ("weight", "bias"))
        x = tf.einsum("bti,io->bto", x, weight) + bias
        x = phi(x) if n < count - 1 else x
    return x


def _zoneout(before: Tensor, after: Tensor, rate: float, mask: Tensor | None) -> Tensor:
    if mask is None and not rate:
        return after
    share = rate if mask is None else tf.cast(mask, before.dtype)
    return share * before + (1.0 - share) * after


def _clean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return durations in at least float32; an invalid one becomes NaN, never a finite result."""
    wide = values if values.dtype == tf.float64 else tf.cast(values, tf.float32)
    if mask is not None:
        wide = tf.where(mask, wide, tf.ones((), wide.dtype))
    return tf.where((wide >= 0) & tf.math.is_finite(wide), wide, tf.constant(float("nan"), wide.dtype))


def _zero_state(layer: LayerSpec, weights: Weights, x: Tensor | None) -> State:
    """Return h and c of zeros for frames x (time, batch, *space, in_channels)."""
    assert x is not None, "a layer without input needs a state"
    _, batch, *size, _ = sizes(x)
    zeros = tf.zeros((batch, *state_grid(layer, tuple(size)), layer.hidden_channels), weights["weight_hh"].dtype)
    return zeros, zeros


def _to_compute_type(weights: Weights, state: State) -> State:
    """Return h in the type that convolutions compute in, and c in at least float32."""
    dtype = weights["weight_hh"].dtype
    wide = tf.float32 if dtype in (tf.bfloat16, tf.float16) else dtype
    return tf.cast(state[0], dtype), tf.cast(state[1], wide)
