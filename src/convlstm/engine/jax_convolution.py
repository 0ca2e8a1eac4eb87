"""Convolutions in JAX, and one rule for the gradient of the recurrent one.

XLA on CPU takes the weight gradient of a convolution inside a loop some two hundred times slower than the convolution
itself. The rule writes that gradient as one matrix product per tap of the kernel, and the gradient of h as a
convolution with the kernel turned round; other platforms keep XLA's own gradients. A rule takes away forward mode
(JAX refuses it with a clear error) and meshes with explicit axes: `plain` gives both back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from convlstm.contract.geometry import Widths

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


def convolve_in_loop(x: Array, kernel: Array, widths: Widths, *, plain: bool) -> Array:
    """Return W ∗ x with stride 1, its gradients taken by the rule unless `plain` or a mesh with explicit axes."""
    rule = not plain and x.size > 0 and not mesh_is_explicit(x)
    # inside `shard_map` a rule wants both of one kind, where a plain convolution casts by itself
    return _ruled(widths, varying_as(x, kernel), varying_as(kernel, x)) if rule else convolve(x, kernel, widths)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ruled(widths: Widths, x: Array, kernel: Array) -> Array:
    return convolve(x, kernel, widths)


def _keep(widths: Widths, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, widths), (x, kernel)


def _pull_back(widths: Widths, kept: tuple[Array, Array], of_z: Array) -> tuple[Array, Array]:
    gradients: tuple[Array, Array] = lax.platform_dependent(
        *kept, of_z, cpu=partial(_by_products, widths), default=partial(_by_xla, widths)
    )
    return gradients


_ruled.defvjp(_keep, _pull_back)


def _by_xla(widths: Widths, x: Array, kernel: Array, of_z: Array) -> tuple[Array, Array]:
    _, pull_back = jax.vjp(partial(convolve, widths=widths), x, kernel)
    of_x, of_kernel = pull_back(of_z)
    return of_x, of_kernel


def _by_products(widths: Widths, x: Array, kernel: Array, of_z: Array) -> tuple[Array, Array]:
    size, rank = kernel.shape[:-2], len(widths)
    turned = jnp.swapaxes(jnp.flip(kernel, range(rank)), -1, -2)
    around = tuple((k - 1 - before, k - 1 - after) for k, (before, after) in zip(size, widths, strict=True))
    padded = jnp.pad(x, ((0, 0), *widths, (0, 0)))
    batch_and_space = tuple(range(rank + 1))
    taps = []
    for tap in product(*map(range, size)):
        window = tuple(slice(k, k + n) for k, n in zip(tap, of_z.shape[1:-1], strict=True))
        taps.append(jnp.tensordot(padded[(slice(None), *window)], of_z, (batch_and_space, batch_and_space)))
    return convolve(of_z, turned, around), jnp.stack(taps).reshape(kernel.shape)


def mesh_is_explicit(x: Any) -> bool:
    """Return whether x lives on a mesh with explicit axes, where shardings are part of an array's type."""
    mesh = jax.typeof(x).sharding.mesh
    return any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)


def varying_as(x: Array, like: Any) -> Array:
    """Return x as varying over at least the axes of a `shard_map` over which `like` varies."""
    own, wanted = (jax.typeof(array).manual_axis_type.varying for array in (x, like))
    missing = tuple(sorted(wanted - own))
    return lax.pcast(x, missing, to="varying") if missing else x
