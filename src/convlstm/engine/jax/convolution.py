"""Convolutions in JAX, and a gradient rule for those inside the loop.

XLA on CPU computes the weight gradient of a convolution inside a loop some two hundred times slower than the
convolution itself. The rule computes both gradients as matrix products, one for each tap of the kernel; other platforms
use XLA's own. A rule supports neither forward mode (JAX refuses it with a clear error) nor meshes with explicit axes;
`generic` supports both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from convlstm.spec.geometry import Widths

_AXES = {1: "W", 2: "HW", 3: "DHW"}


def convolve(
    x: Array,
    kernel: Array,
    widths: Widths,
    *,
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Array:
    """Return W ∗ x for x (batch, *space, in) and a kernel (*space, in / groups, out), zeros around x."""
    rank = len(widths)
    space = _AXES[rank]
    return lax.conv_general_dilated(
        x,
        kernel,
        stride or (1,) * rank,
        widths,
        rhs_dilation=dilation,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=groups,
    )


def convolve_in_loop(
    x: Array,
    kernel: Array,
    widths: Widths,
    dilation: tuple[int, ...],
    *,
    generic: bool,
    is_zero: Array | None = None,
) -> Array:
    """Return W ∗ x with stride 1, with the gradient rule unless `generic` or on a mesh with explicit axes.

    Where the scalar `is_zero` is true, x is zero and needs no gradient: the rule then computes nothing.
    """
    if generic or x.size == 0 or mesh_is_explicit(x):
        return convolve(x, kernel, widths, dilation=dilation)
    # inside `shard_map` a rule needs both to vary over the same axes; an ordinary convolution casts them itself
    z: Array = _with_rule(widths, dilation, varying_as(x, kernel), varying_as(kernel, x), is_zero)
    return z


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_rule(widths: Widths, dilation: tuple[int, ...], x: Array, kernel: Array, is_zero: Array | None) -> Array:
    z: Array = _zeros_if(is_zero, partial(convolve, widths=widths, dilation=dilation), x, kernel)
    return z


def _forward(
    widths: Widths, dilation: tuple[int, ...], x: Array, kernel: Array, is_zero: Array | None
) -> tuple[Array, tuple[Any, ...]]:
    return _with_rule(widths, dilation, x, kernel, is_zero), (x, kernel, is_zero)


def _backward(
    widths: Widths, dilation: tuple[int, ...], saved: tuple[Any, ...], dz: Array
) -> tuple[Array, Array, None]:
    x, kernel, is_zero = saved

    def gradients(*arrays: Array) -> tuple[Array, Array]:
        dx_and_dw: tuple[Array, Array] = lax.platform_dependent(
            *arrays,
            cpu=partial(_gradients_by_products, widths, dilation),
            default=partial(_gradients_by_xla, widths, dilation),
        )
        return dx_and_dw

    dx, dw = _zeros_if(is_zero, gradients, x, kernel, dz)
    return dx, dw, None


_with_rule.defvjp(_forward, _backward)


def _zeros_if(is_zero: Array | None, compute: Callable[..., Any], *arrays: Array) -> Any:
    """Return `compute(*arrays)`, or zeros of the same shapes if the scalar is true."""
    if is_zero is None:
        return compute(*arrays)
    shapes = jax.eval_shape(compute, *arrays)

    def zeros(*arrays: Array) -> Any:
        return jax.tree.map(lambda like: varying_as(jnp.zeros(like.shape, like.dtype), arrays[0]), shapes)

    return lax.cond(is_zero, zeros, compute, *arrays)


def _gradients_by_xla(
    widths: Widths, dilation: tuple[int, ...], x: Array, kernel: Array, dz: Array
) -> tuple[Array, Array]:
    _, pullback = jax.vjp(partial(convolve, widths=widths, dilation=dilation), x, kernel)
    dx, dw = pullback(dz)
    return dx, dw


def _gradients_by_products(
    widths: Widths, dilation: tuple[int, ...], x: Array, kernel: Array, dz: Array
) -> tuple[Array, Array]:
    size, batch_and_space = kernel.shape[:-2], tuple(range(len(widths) + 1))
    padded = jnp.pad(x, ((0, 0), *widths, (0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums over taps and points are rounded only at the end
    product_of = partial(jnp.tensordot, preferred_element_type=wide)
    d_padded, d_taps = jnp.zeros(padded.shape, wide), []
    for tap in product(*map(range, size)):
        offsets = [k * d for k, d in zip(tap, dilation, strict=True)]
        window = (slice(None), *(slice(k, k + n) for k, n in zip(offsets, dz.shape[1:-1], strict=True)))
        d_taps.append(product_of(padded[window], dz, (batch_and_space, batch_and_space)))
        margins = [(k, (n - 1) * d - k) for k, n, d in zip(offsets, size, dilation, strict=True)]
        d_padded += jnp.pad(product_of(dz, kernel[tap], (-1, -1)), ((0, 0), *margins, (0, 0)))
    inside = (slice(None), *(slice(before, before + n) for (before, _), n in zip(widths, x.shape[1:-1], strict=True)))
    return d_padded[inside].astype(x.dtype), jnp.stack(d_taps).reshape(kernel.shape).astype(kernel.dtype)


def mesh_is_explicit(x: Any) -> bool:
    """Return whether x is on a mesh with explicit axes, where shardings are part of an array's type."""
    mesh = jax.typeof(x).sharding.mesh
    return any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)


def varying_as(x: Array, like: Any) -> Array:
    """Return x as varying over at least the axes of a `shard_map` over which `like` varies."""
    axes_of_x, axes_of_like = (jax.typeof(array).manual_axis_type.varying for array in (x, like))
    missing = tuple(sorted(axes_of_like - axes_of_x))
    return lax.pcast(x, missing, to="varying") if missing else x
