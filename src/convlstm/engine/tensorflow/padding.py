"""The boundaries in TensorFlow, for sizes that are known when the graph is built or only when it runs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from convlstm.spec.geometry import Widths, check_boundary, effective_kernel, pad_widths
from convlstm.spec.layer import LayerSpec

Tensor = Any


def sizes(x: Tensor) -> tuple[Any, ...]:
    """Return the length of every axis: a number where it is known, else a tensor."""
    known = x.shape.as_list()
    if None not in known:
        return tuple(known)
    shape = tf.shape(x)
    return tuple(shape[axis] if size is None else size for axis, size in enumerate(known))


def input_widths(layer: LayerSpec, size: tuple[Any, ...]) -> tuple[tuple[Any, Any], ...]:
    """Return the padding of the input convolution for frames of this spatial size (rule: `geometry.pad_widths`)."""
    same = layer.padding == "same"
    widths: list[tuple[Any, Any]] = []
    for axis, (n, k, s, d) in enumerate(zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        if same and s == 1:
            widths += pad_widths((1,), (k,), (1,), (d,), "same")  # the same for every size
        elif same and not isinstance(n, int):
            total = tf.maximum((-(-n // s) - 1) * s + effective_kernel(k, d) - n, 0)
            widths.append((total // 2, total - total // 2))
        else:
            padding = layer.padding if isinstance(layer.padding, str) else (layer.padding[axis],)
            widths += pad_widths((n,), (k,), (s,), (d,), padding)
    return tuple(widths)


def state_grid(layer: LayerSpec, size: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the grid of the state for frames of this spatial size (rule: `geometry.output_size`)."""
    if all(isinstance(n, int) for n in size):
        return layer.grid(size)
    axes = zip(size, input_widths(layer, size), layer.kernel_size, layer.stride, layer.dilation, strict=True)
    return tuple((n + before + after - effective_kernel(k, d)) // s + 1 for n, (before, after), k, s, d in axes)


def pad(x: Tensor, widths: tuple[tuple[Any, Any], ...] | Widths, boundary: tuple[str, ...]) -> Tensor:
    """Return x (batch, *space, channels) with points added around its spatial axes, one axis after another."""
    size = sizes(x)[1:-1]
    known = all(isinstance(n, int) for n in (*size, *(n for width in widths for n in width)))
    if known:
        check_boundary(size, widths, boundary)
    for axis, (n, width, rule) in enumerate(zip(size, widths, boundary, strict=True)):
        if known and width == (0, 0):
            continue
        if rule == "zeros":
            x = tf.pad(x, [width if n == 1 + axis else (0, 0) for n in range(len(size) + 2)])
        else:
            x = tf.gather(x, _sources(n, width, rule), axis=1 + axis)
    return x


def _sources(size: Any, width: tuple[Any, Any], rule: str) -> Tensor:
    """Return which point of the axis each point of the padded axis repeats."""
    index = tf.range(-width[0], size + width[1])
    if rule == "replicate":
        return tf.clip_by_value(index, 0, size - 1)
    if rule == "circular":
        return index % size
    return (size - 1) - tf.abs((size - 1) - tf.abs(index))
