"""Lines of JAX projects as they are written there, apart from the imports."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convlstm.conformance.drop_in import STRATEGIES, UsageExample, UsageResult, against_reference
from convlstm.flax.compat import DurationAwareConvLSTMCell
from convlstm.jax.weights import from_canonical
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import initialise

CHANNELS, HIDDEN = 3, 64


def linen(strategy: str) -> UsageResult:
    """Run duration-aware ConvLSTM's scan with the linen cell."""
    cell = DurationAwareConvLSTMCell(hidden_features=64, kernel_size=(3, 3), duration_strategy=strategy)
    weights, params = _weights(strategy)

    def scan_fn(carry: Any, inputs: Any) -> Any:
        return cell.apply({"params": params}, carry, inputs)

    return _scanned(scan_fn, strategy, weights)


def haiku(strategy: str) -> UsageResult:
    """Run duration-aware ConvLSTM's scan with the Haiku cell."""
    import haiku as hk

    from convlstm import haiku as haiku_layers

    def forward(carry: Any, inputs: Any) -> Any:
        cell = haiku_layers.DurationAwareConvLSTMCell(
            hidden_features=64, kernel_size=(3, 3), duration_strategy=strategy
        )
        return cell(carry, inputs)

    cell: Any = hk.without_apply_rng(hk.transform(forward))
    weights, tree = _weights(strategy)
    params = haiku_layers.to_params(tree, "duration_aware_conv_lstm_cell")

    def scan_fn(carry: Any, inputs: Any) -> Any:
        return cell.apply(params, carry, inputs)

    return _scanned(scan_fn, strategy, weights)


EXAMPLES = tuple(
    UsageExample(
        "duration-aware",
        f"jax.lax.scan(scan_fn, initial_state, (frames_seq, durations_seq))  # {api}, {name}",
        partial(run, s),
    )
    for api, run in (("Flax", linen), ("Haiku", haiku))
    for name, s in STRATEGIES.items()
    if api == "Flax" or find_spec("haiku")
)
"""Every line of a JAX project."""


def _scanned(scan_fn: Any, strategy: str, weights: dict[str, Array]) -> UsageResult:
    random = np.random.default_rng(1)
    frames_seq = jnp.asarray(random.standard_normal((3, 4, 16, 16, CHANNELS)), jnp.float32)
    durations_seq = jnp.asarray(random.uniform(0.5, 1.5, (3, 4)), jnp.float32)
    h0 = c0 = jnp.zeros((4, 16, 16, HIDDEN))
    initial_state = (h0, c0)
    final_state, outputs = jax.lax.scan(scan_fn, initial_state, (frames_seq, durations_seq))
    pairs = [(_first(final_state[0], 1), _first(final_state[1], 1))]
    x, durations = _first(frames_seq.swapaxes(0, 1), 2), np.asarray(durations_seq.T, np.float64)
    return against_reference(
        *(_spec(strategy), weights, x, pairs),
        shapes={"outputs": outputs.shape, "h, c": final_state[0].shape},
        durations=durations,
        output=_first(outputs.swapaxes(0, 1), 2),
    )


def _spec(strategy: str) -> ConvLSTMSpec:
    return ConvLSTMSpec(in_channels=CHANNELS, hidden_channels=HIDDEN, kernel_size=3, duration_strategy=strategy)


def _weights(strategy: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return weights with the strategy's parameters off their neutral start, so that a fault would show."""
    random = np.random.default_rng(0)
    weights = initialise(_spec(strategy), 0)
    for key in weights:
        if ".duration." in key:
            weights[key] = np.asarray(weights[key] + 0.5 * random.standard_normal(weights[key].shape))
    return weights, from_canonical(_spec(strategy), weights, jnp.float32)


def _first(array: Any, axis: int) -> Array:
    return np.moveaxis(np.asarray(array, np.float64), -1, axis)
