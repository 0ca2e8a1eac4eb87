"""Convolutions in JAX, and one rule for the gradients of those inside the loop.

XLA on CPU takes the weight gradient of a convolution inside a loop some two hundred times slower than the convolution
itself. The rule writes both gradients as matrix products, one for each tap of the kernel; other platforms keep XLA's
own. A rule takes away forward mode (JAX refuses it with a clear error) and meshes with explicit axes: `plain` gives
both back.
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


def convolve_in_loop(x: Array, kernel: Array, widths: Widths, *, plain: bool, nothing: Array | None = None) -> Array:
    """Return W ∗ x with stride 1, its gradients taken by the rule unless `plain` or a mesh with explicit axes.

    Args:
        x: (batch, *space, in).
        kernel: (*space, in, out).
        widths: Points of padding around x.
        plain: Leave the gradients to JAX.
        nothing: Whether x is zero (a scalar), and its gradient of no interest: the rule then computes nothing.

    Returns:
        (batch, *space, out).
    """
    rule = not plain and x.size > 0 and not mesh_is_explicit(x)
    # inside `shard_map` a rule wants both of one kind, where a plain convolution casts by itself
    if not rule:
        return convolve(x, kernel, widths)
    convolved: Array = _ruled(widths, varying_as(x, kernel), varying_as(kernel, x), nothing)
    return convolved


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ruled(widths: Widths, x: Array, kernel: Array, nothing: Array | None) -> Array:
    z: Array = _unless(nothing, partial(convolve, widths=widths), x, kernel)
    return z


def _keep(widths: Widths, x: Array, kernel: Array, nothing: Array | None) -> tuple[Array, tuple[Any, ...]]:
    return _ruled(widths, x, kernel, nothing), (x, kernel, nothing)


def _pull_back(widths: Widths, kept: tuple[Any, ...], of_z: Array) -> tuple[Array, Array, None]:
    *arrays, nothing = kept

    def gradients(*arrays: Array) -> tuple[Array, Array]:
        found: tuple[Array, Array] = lax.platform_dependent(
            *arrays, cpu=partial(_by_products, widths), default=partial(_by_xla, widths)
        )
        return found

    return *_unless(nothing, gradients, *arrays, of_z), None


_ruled.defvjp(_keep, _pull_back)


def _unless(nothing: Array | None, compute: Callable[..., Any], *arrays: Array) -> Any:
    """Return what is computed from the arrays; zeros of the same form if it would come to nothing."""
    if nothing is None:
        return compute(*arrays)
    made = jax.eval_shape(compute, *arrays)

    def zeros(*arrays: Array) -> Any:
        return jax.tree.map(lambda like: varying_as(jnp.zeros(like.shape, like.dtype), arrays[0]), made)

    return lax.cond(nothing, zeros, compute, *arrays)


def _by_xla(widths: Widths, x: Array, kernel: Array, of_z: Array) -> tuple[Array, Array]:
    _, pull_back = jax.vjp(partial(convolve, widths=widths), x, kernel)
    of_x, of_kernel = pull_back(of_z)
    return of_x, of_kernel


def _by_products(widths: Widths, x: Array, kernel: Array, of_z: Array) -> tuple[Array, Array]:
    size, batch_and_space = kernel.shape[:-2], tuple(range(len(widths) + 1))
    padded = jnp.pad(x, ((0, 0), *widths, (0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums over taps and places are not rounded on their way
    product_of = partial(jnp.tensordot, preferred_element_type=wide)
    of_padded, of_taps = jnp.zeros(padded.shape, wide), []
    for tap in product(*map(range, size)):
        window = (slice(None), *(slice(k, k + n) for k, n in zip(tap, of_z.shape[1:-1], strict=True)))
        of_taps.append(product_of(padded[window], of_z, (batch_and_space, batch_and_space)))
        around = [(k, n - 1 - k) for k, n in zip(tap, size, strict=True)]
        of_padded += jnp.pad(product_of(of_z, kernel[tap], (-1, -1)), ((0, 0), *around, (0, 0)))
    inside = (slice(None), *(slice(before, before + n) for (before, _), n in zip(widths, x.shape[1:-1], strict=True)))
    return of_padded[inside].astype(x.dtype), jnp.stack(of_taps).reshape(kernel.shape).astype(kernel.dtype)


def mesh_is_explicit(x: Any) -> bool:
    """Return whether x lives on a mesh with explicit axes, where shardings are part of an array's type."""
    mesh = jax.typeof(x).sharding.mesh
    return any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)


def varying_as(x: Array, like: Any) -> Array:
    """Return x as varying over at least the axes of a `shard_map` over which `like` varies."""
    own, wanted = (jax.typeof(array).manual_axis_type.varying for array in (x, like))
    missing = tuple(sorted(wanted - own))
    return lax.pcast(x, missing, to="varying") if missing else x
