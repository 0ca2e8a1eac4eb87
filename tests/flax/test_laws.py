"""Laws that hold for any weights and any data, with no reference beside them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm.engine.jax.convolution import convolve_in_loop
from convlstm.flax import ConvLSTM, ConvLSTMCell, State, load_canonical, to_canonical
from convlstm.spec.durations import durations_from_times

pytestmark = pytest.mark.usefixtures("x64")

RICH: dict[str, Any] = {"peephole": "channel", "norm": "layer", "boundary": ("replicate", "circular"), "zoneout_c": 0.2}
PLAIN_AND_RICH = [{"peephole": "channel"}, RICH]


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape))


def build(*, cls: Any = ConvLSTM, **options: Any) -> Any:
    layer = cls(2, 3, 3, **{"param_dtype": jnp.float64} | options, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    moved = {key: a + 0.3 * random.standard_normal(a.shape) for key, a in to_canonical(layer).items()}
    load_canonical(layer, moved)
    layer.eval()
    return layer


def close(a: Any, b: Any, atol: float = 1e-13) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


@pytest.mark.parametrize("options", PLAIN_AND_RICH)
def test_a_sequence_in_two_parts_is_the_whole(options: dict) -> None:
    layer, x = build(**options, num_layers=2, stride=[(2, 2), (1, 1)]), normal(2, 5, 6, 5, 2)
    final, whole = layer(x)
    carry, first = layer(x[:, :2])
    carry, second = layer(x[:, 2:], carry)
    close(jnp.concatenate([first, second], axis=1), whole, 1e-12)
    close(carry, final, 1e-12)


@pytest.mark.parametrize("options", [*PLAIN_AND_RICH, {"duration_strategy": "mlp", "memory_decay": True, "stride": 2}])
def test_a_cell_step_by_step_is_the_layer(options: dict) -> None:
    layer, cell = build(**options), build(cls=ConvLSTMCell, **options)
    x, times = normal(2, 4, 6, 5, 2), {}
    if "duration_strategy" in options:
        times = {"durations": abs(normal(2, 4)) + 0.1, "gaps": abs(normal(2, 4, seed=1)) + 0.5}
    final, output = layer(x, **times)
    carry, names = cell.initialize_carry((2, 6, 5, 2)), {"durations": "duration", "gaps": "gap"}
    carry = State(*(a.astype(jnp.float64) for a in carry))
    part = None
    for t in range(4):
        carry, y = cell(carry, x[:, t], **{names[name]: value[:, t] for name, value in times.items()})
        close(y, output[:, t])
        now = {name: value[:, t : t + 1] for name, value in times.items()}
        part, step = layer(x[:, t : t + 1], part, **now)
        np.testing.assert_array_equal(step[:, 0], y)  # step by step against step by step, bit for bit
    close(carry, State(final.h[0], final.c[0]))


def test_rows_of_a_batch_do_not_meet() -> None:
    layer = build(**RICH, direction="bidirectional", num_layers=2)
    x, lengths = normal(3, 4, 6, 5, 2), jnp.array([4, 2, 0])
    together = layer(x, lengths=lengths)
    for row in range(3):
        alone = layer(x[row : row + 1], lengths=lengths[row : row + 1])
        close(alone, jax.tree.map(lambda a, row=row: a[row : row + 1], together))


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_what_lies_in_masked_frames_reaches_nothing(masked_output: str) -> None:
    layer = build(direction="bidirectional", masked_output=masked_output, duration_strategy="mlp", memory_decay=True)
    x, mask = normal(3, 4, 6, 5, 2), jnp.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=bool)
    durations, gaps = abs(normal(3, 4)) + 0.5, tuple(abs(normal(3, 4, seed=n)) + 1 for n in (1, 2))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def loss(params: Any, x: jax.Array, value: jax.Array) -> Any:
        given = {
            "durations": jnp.where(mask, durations, value),
            "gaps": tuple(jnp.where(mask, gap, value) for gap in gaps),
        }
        results = nnx.merge(graph, params, rest)(x, mask=mask, **given)
        return sum(jnp.square(a).sum() for a in jax.tree.leaves(results)), results

    derive = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    clean, *dirty = (
        derive(params, jnp.where(mask[:, :, None, None, None], x, value), value) for value in (0.0, np.nan, np.inf)
    )
    for found in dirty:
        assert not found[1][1][~mask].any()
        for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(found), strict=True):
            assert np.isfinite(b).all()
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_a_masked_sequence_is_the_sequence_of_its_valid_frames(masked_output: str) -> None:
    layer, x = build(masked_output=masked_output), normal(1, 6, 6, 5, 2)
    mask = np.array([[False, True, True, False, True, False]])
    carry, output = layer(x, mask=mask)
    final, short = layer(x[:, mask[0]])
    close(output[:, mask[0]], short)
    close(carry, final)
    held = [None, 0, 1, 1, 2, 2] if masked_output == "hold" else [None, 0, 1, None, 2, None]
    for t, source in enumerate(held):
        close(output[:, t], jnp.zeros_like(output[:, t]) if source is None else short[:, source])


def test_lengths_are_a_mask() -> None:
    layer, x = build(direction="bidirectional"), normal(3, 4, 6, 5, 2)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    for lengths in ([4, 2, 0], jnp.array([4, 2, 0])):
        close(layer(x, lengths=lengths), layer(x, mask=mask), 0.0)


def test_the_reverse_direction_is_the_forward_one_on_reversed_valid_frames() -> None:
    backward, forward, x = build(direction="reverse"), build(), normal(1, 5, 6, 5, 2)
    load_canonical(forward, {k.replace("reverse", "forward"): v for k, v in to_canonical(backward).items()})
    carry, output = backward(x, lengths=[3])
    final, mirrored = forward(x[:, :3][:, ::-1])
    close(output[:, :3], mirrored[:, ::-1])
    assert not output[:, 3:].any()
    close(carry, final)


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "separate"])
def test_reversing_time_swaps_the_directions(merge: str) -> None:
    layer, swapped = (build(direction="bidirectional", merge=merge) for _ in range(2))
    x, names = normal(2, 4, 6, 5, 2), {"forward": "reverse", "reverse": "forward"}
    arrays = {k.replace(f".{d}.", f".{names[d]}."): v for k, v in to_canonical(layer).items() for d in names if d in k}
    load_canonical(swapped, arrays)
    carry, output = layer(x)
    other_carry, other = swapped(x[:, ::-1])
    parts, others = (
        given if merge == "separate" else jnp.split(given, 2, axis=-1) if merge == "concat" else (given,)
        for given in (output, other)
    )
    for a, b in zip(parts, reversed(others), strict=True):
        close(a, b[:, ::-1])
    close(carry, State(other_carry.h[::-1], other_carry.c[::-1]))


@pytest.mark.parametrize("strategy", ["linear", "log", "log1p", "scalar", "exp", "mlp"])
def test_equal_durations_make_the_plain_layer(strategy: str) -> None:
    options: dict[str, Any] = {"param_dtype": jnp.float64, "peephole": "channel"}
    plain = ConvLSTM(2, 3, 3, **options, rngs=nnx.Rngs(0))
    aware = ConvLSTM(
        2, 3, 3, **options, duration_strategy=strategy, reference_duration=300.0, memory_decay=True, rngs=nnx.Rngs(0)
    )
    x = normal(2, 3, 6, 5, 2)
    close(aware(x, durations=300.0, gaps=300.0), plain(x), 1e-5 if strategy == "log" else 1e-14)  # log: to ε = 1e-6


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "recurrent_kernel_size": (5, 2)}, {"dilation": 2}])
def test_on_a_globe_a_shift_of_the_input_is_a_shift_of_the_output(options: dict) -> None:
    layer, x = build(**options, boundary="circular", peephole="channel", norm="layer"), normal(2, 3, 6, 8, 2)
    shifted = layer(jnp.roll(x, (2, -3), (2, 3)))
    close(shifted, jax.tree.map(lambda a: jnp.roll(a, (2, -3), (-3, -2)), layer(x)))


def test_a_stream_with_gaps_is_the_whole_sequence() -> None:
    layer, x = build(duration_strategy="scalar", memory_decay=True), normal(1, 5, 6, 5, 2)
    times = np.array([[0.0, 1.0, 4.0, 4.5, 9.0]])
    gaps = durations_from_times(times)
    _, whole = layer(x, durations=gaps, gaps=gaps)
    carry, _ = layer(x[:, :3], durations=gaps[:, :3], gaps=gaps[:, :3])
    later = durations_from_times(times[:, 3:], previous=times[:, 2])
    close(layer(x[:, 3:], carry, durations=later, gaps=later)[1], whole[:, 3:])


def test_a_function_is_a_duration_strategy() -> None:
    own, named = build(duration_strategy=lambda r: r), build(duration_strategy="linear")
    x, durations = normal(2, 3, 6, 5, 2), abs(normal(2, 3))
    close(own(x, durations=durations), named(x, durations=durations), 0.0)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("options", [*PLAIN_AND_RICH, {"stride": 2}, {"boundary": "circular"}])
@pytest.mark.parametrize("masked", [False, True])
def test_starting_without_a_state_is_starting_from_zeros(direction: str, options: dict, masked: bool) -> None:
    """Without a state the first step's convolution of h is left out, forward and backward: nothing else may change."""
    layer = build(**options, num_layers=2, direction=direction)
    graph, params = nnx.split(layer, nnx.Param, ...)[0], nnx.split(layer, nnx.Param, ...)[1]
    rest = nnx.split(layer, nnx.Param, ...)[2]
    x, ways = normal(2, 3, 8, 4, 2), 2 if direction == "bidirectional" else 1
    given = {"mask": jnp.asarray([[False, True, True], [True, True, False]])} if masked else {}
    zeros = jax.tree.map(jnp.zeros_like, layer(x)[0])
    assert len(zeros.h) == 2 * ways

    def loss(params: Any, x: Any, carry: Any) -> Any:
        final, y = nnx.merge(graph, params, rest)(x, carry, **given)
        return jnp.sum(y**2) + sum(jnp.sum(c) for c in final[1])

    gradients = jax.value_and_grad(loss, argnums=(0, 1))
    close(gradients(params, x, None), gradients(params, x, zeros), 1e-12)
    # a condition forward and one backward more in each layer and direction; the gates are computed again
    programs = [str(jax.make_jaxpr(lambda p, x, c=c: gradients(p, x, c))(params, x)) for c in (None, zeros)]
    conditions = [program.count(" cond[") for program in programs]
    assert conditions[0] - conditions[1] == 2 * 2 * ways
    assert "remat" in programs[0]
    if not masked:
        mapped = jax.vmap(jax.grad(loss, argnums=1), (None, 0, None))(params, x[:, None], None)
        close(mapped[:, 0], jax.grad(loss, argnums=1)(params, x, None), 1e-12)


def test_gradients_in_low_precision_are_summed_wide() -> None:
    """Each tap's part of a gradient is not rounded before the sum over the taps is."""
    random = np.random.default_rng(0)
    x, of_z = (jnp.asarray(random.standard_normal((1, 9, 9, n)), jnp.bfloat16) for n in (4, 16))
    kernel = jnp.asarray(random.standard_normal((7, 7, 4, 16)), jnp.bfloat16)

    def pulled(x: Any, kernel: Any, of_z: Any) -> Any:
        convolved = lambda x, kernel: convolve_in_loop(x, kernel, ((3, 3), (3, 3)), generic=False)  # noqa: E731
        return jax.vjp(convolved, x, kernel)[1](of_z)

    wide = pulled(*(array.astype(jnp.float64) for array in (x, kernel, of_z)))
    for found, expected in zip(pulled(x, kernel, of_z), wide, strict=True):
        assert found.dtype == jnp.bfloat16
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected))
        assert difference.max() <= 2**-8 * np.abs(expected).max()
