"""The reference ConvLSTM in NumPy float64. Every framework is tested against it.

Every function also accepts complex arrays, so that a complex step gives gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convlstm.reference import durations as duration_rules
from convlstm.reference.activations import ACTIVATION_FUNCTIONS
from convlstm.reference.convolution import convolve
from convlstm.spec.choices import NORM_EPSILON
from convlstm.spec.durations import check_durations
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import LayerMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import layer_prefix

Weights = Mapping[str, Array]
State = tuple[Array, Array]


def step(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    state: State,
    *,
    factor: Array | float = 1.0,
    retention: Array | float = 1.0,
    masks: LayerMasks | None = None,
    t: int = 0,
    norm_variances: list[float] | None = None,
) -> State:
    """Return h_t and c_t (batch, hidden, *grid) after one step of the cell.

        z   = W_ih ∗ x_t + W_hh ∗ h_{t-1} + b            gates in the order i, f, g, o
        i   = σ(z_i + p_i ∘ c_{t-1})
        f   = σ(z_f + p_f ∘ c_{t-1})
        g   = φ(z_g)
        c_t = f ∘ c_{t-1} + i ∘ (g · δ)
        o   = σ(z_o + p_o ∘ c_t)                         the output gate uses the new cell state
        h_t = o ∘ φ(c_t)

    Source: Shi et al. (2015), Eq. 3, arXiv:1506.04214. `docs/contract.md` defines δ (`factor`) and memory decay
    (`retention`, a factor on c_{t-1}). x is (batch, in_channels, *space), or None for a layer without input. Without
    masks zoneout uses its rates; with masks t selects those of the step.
    `norm_variances` is a list that receives the least variance in each norm.
    """
    spec, masks = layer.stack, masks or LayerMasks()
    sigma = ACTIVATION_FUNCTIONS[spec.recurrent_activation]
    phi = ACTIVATION_FUNCTIONS[spec.activation]
    h_before, c_before = state[0], state[1] * retention
    z = _gates(layer, weights, x, h_before, masks, norm_variances)
    p_i, p_f, p_o = np.zeros(3) if spec.peephole == "none" else _peephole(spec, weights["peephole"])
    i = sigma(z[0] + p_i * c_before)
    f = sigma(z[1] + p_f * c_before)
    g = phi(z[2])
    c = f * c_before + i * (g * factor)
    o = sigma(z[3] + p_o * c)
    h = o * phi(c)
    keep_h = spec.zoneout_h if masks.zoneout_h is None else masks.zoneout_h[t]
    keep_c = spec.zoneout_c if masks.zoneout_c is None else masks.zoneout_c[t]
    return keep_h * h_before + (1.0 - keep_h) * h, keep_c * c_before + (1.0 - keep_c) * c


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    state: State,
    *,
    steps: int,
    reverse: bool = False,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Array | None = None,
    masks: LayerMasks | None = None,
    norm_variances: list[float] | None = None,
) -> tuple[Array, State]:
    """Run one layer in one direction; return outputs (batch, time, hidden, *grid) in input order and the final state.

    x is (batch, time, in_channels, *space), or None for a layer without input; mask, durations and gaps are
    (batch, time). A masked step leaves h and c unchanged; its output is zero or the previous output.
    """
    spec, batch = layer.stack, len(state[0])
    valid = np.ones((batch, steps), dtype=bool) if mask is None else mask
    for name, values in (("durations", durations), ("gaps", gaps)):
        if values is not None:
            check_durations(name, values.real, valid)
    factors = None if durations is None else duration_rules.scale(layer, weights, _clean(durations, valid))
    retentions = None if gaps is None else duration_rules.retention(layer, weights, _clean(gaps, valid))
    h, c = state
    outputs: dict[int, Array] = {}
    last_output = np.zeros_like(h)
    for t in reversed(range(steps)) if reverse else range(steps):
        valid_t = valid[:, t].reshape(-1, *(1,) * (h.ndim - 1))
        x_t = None if x is None else np.where(valid_t, x[:, t], 0.0)
        h_new, c_new = step(
            layer,
            weights,
            x_t,
            (h, c),
            factor=1.0 if factors is None else _over_grid(factors[:, t], spec.spatial_dims),
            retention=1.0 if retentions is None else _over_grid(retentions[:, t], spec.spatial_dims),
            masks=masks,
            t=t,
            norm_variances=norm_variances,
        )
        h, c = np.where(valid_t, h_new, h), np.where(valid_t, c_new, c)
        last_output = np.where(valid_t, h, last_output if spec.masked_output == "hold" else 0.0)
        outputs[t] = last_output
    empty = np.zeros((batch, 0, *h.shape[1:]), dtype=h.dtype)
    return np.stack([outputs[t] for t in range(steps)], axis=1) if steps else empty, (h, c)


def stack(
    spec: ConvLSTMSpec,
    weights: Weights,
    x: Array | None,
    states: Sequence[State] | None = None,
    *,
    steps: int | None = None,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Mapping[str, Array] | None = None,
    masks: Mapping[tuple[int, str], LayerMasks] | None = None,
    dropout: Sequence[Array] | None = None,
    norm_variances: list[float] | None = None,
) -> tuple[Array | tuple[Array, ...], list[State]]:
    """Return the merged output of the last layer (a tuple, forward first, with merge `separate`), and the final states.

    The keys of the weights are `layers.{l}.{direction}.NAME`. States are indexed layer · D + direction, forward first;
    None means zeros. `steps` is for a stack without input. `masks` are by (layer, direction), `dropout` is a factor
    (batch, time, channels, *grid) on the output of each layer but the last.
    """
    if states is None:
        assert x is not None, "a stack without input starts from given states"
        states = zero_states(spec, len(x), x.shape[3:], x.dtype)
    steps = x.shape[1] if x is not None else steps
    assert steps is not None
    final: list[State] = []
    parts: list[Array] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            prefix = layer_prefix(layer.index, direction)
            layer_weights = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
            output, state = sequence(
                layer,
                layer_weights,
                x,
                states[len(final)],
                steps=steps,
                reverse=direction == "reverse",
                mask=mask,
                durations=durations,
                gaps=None if gaps is None else gaps[direction],
                masks=None if masks is None else masks[layer.index, direction],
                norm_variances=norm_variances,
            )
            parts.append(output)
            final.append(state)
        if layer.index < spec.depth - 1:
            x = merged(parts, "concat" if spec.merge == "separate" else spec.merge)
            x = x if dropout is None else x * dropout[layer.index]
    return (tuple(parts) if spec.merge == "separate" and len(parts) > 1 else merged(parts, spec.merge)), final


def merged(parts: Sequence[Array], merge: str) -> Array:
    """Return the outputs of the directions (batch, time, channels, *grid) as one array."""
    if len(parts) == 1:
        return parts[0]
    forward, backward = parts
    if merge == "concat":
        return np.concatenate(parts, axis=2)
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)


def zero_states(spec: ConvLSTMSpec, batch: int, input_size: tuple[int, ...], dtype: object = float) -> list[State]:
    """Return zero states for frames of this spatial size, indexed layer · D + direction."""
    shapes = [
        (batch, layer.hidden_channels, *grid)
        for layer, grid in zip(spec.layers, spec.grids(input_size), strict=True)
        for _ in spec.directions
    ]
    return [(np.zeros(shape, dtype=dtype), np.zeros(shape, dtype=dtype)) for shape in shapes]  # type: ignore[call-overload]


def _gates(
    layer: LayerSpec,
    weights: Weights,
    x: Array | None,
    h: Array,
    masks: LayerMasks,
    norm_variances: list[float] | None,
) -> list[Array]:
    spec, rank = layer.stack, layer.stack.spatial_dims
    if masks.recurrent is not None:
        h = h * masks.recurrent
    if x is not None and masks.input is not None:
        x = x * masks.input
    gates = []
    for gate in range(4):
        z = convolve(
            h,
            weights["weight_hh"][gate],
            widths=layer.recurrent_widths,
            boundary=spec.boundary,
            dilation=layer.recurrent_dilation,
        )
        if x is not None:
            z = z + convolve(
                x,
                weights["weight_ih"][gate],
                widths=pad_widths(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, layer.padding),
                boundary=spec.boundary,
                stride=layer.stride,
                dilation=layer.dilation,
                groups=layer.groups,
            )
        if spec.norm != "none":
            z = _over_grid(weights["norm_scale"][gate], rank) * _normalised(z, spec.norm_groups or 1, norm_variances)
        gates.append(z + _over_grid(weights["bias"][gate], rank) if spec.bias else z)
    return gates


def _normalised(z: Array, groups: int, variances: list[float] | None) -> Array:
    parts = z.reshape(len(z), groups, -1)
    centred = parts - parts.mean(axis=2, keepdims=True)
    variance = (centred * centred).mean(axis=2, keepdims=True)
    if variances is not None:
        variances.append(float(variance.real.min(initial=np.inf)))
    scaled: Array = centred / np.sqrt(variance + NORM_EPSILON)
    return scaled.reshape(z.shape)


def _peephole(spec: ConvLSTMSpec, peephole: Array) -> Array:
    return peephole if spec.peephole == "pixel" else _over_grid(peephole, spec.spatial_dims)


def _over_grid(values: Array, rank: int) -> Array:
    return values.reshape(*values.shape, *(1,) * rank)


def _clean(values: Array, valid: Array) -> Array:
    return np.where(valid, values, 1.0)
