"""Flax in low precision against the reference; the other random cases are in `tests/conformance`."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from convlstm.conformance import compare as comparison
from convlstm.conformance.layer_arrays import layer_input
from convlstm.conformance.random_layers import random_case, reference_arrays
from convlstm.flax import State, from_canonical, functional

pytestmark = pytest.mark.usefixtures("x64")

DETERMINISTIC = {"input_dropout": 0.0, "recurrent_dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.bfloat16, 5e-2), (jnp.float16, 1e-2)], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("seed", range(50_000, 50_003))
def test_low_precision(dtype: jnp.dtype, limit: float, seed: int) -> None:
    """Weights and inputs are rounded first; c stays in float32 (limits: docs/contract.md, Precision)."""
    case = random_case(
        seed, norm="none", direction="forward", duration_strategy="none", memory_decay=False, **DETERMINISTIC
    )
    rounded = {name: np.float64(jnp.asarray(array, dtype)) for name, array in case.arrays.items()}
    case = replace(case, arrays=rounded, masks=None, dropout=None)
    expected = reference_arrays(case)
    params = from_canonical(case.spec, comparison.weights_of(case), dtype)
    states = State(
        *(
            tuple(jnp.asarray(np.moveaxis(rounded[f"{part}.{n}"], 1, -1), dtype) for n in range(case.spec.depth))
            for part in "hc"
        )
    )
    x, steps = layer_input(case, {"x": jnp.asarray(np.moveaxis(rounded["x"], 2, -1), dtype)})
    carry, output = functional.layer(case.spec, params, x, states, steps=steps, mask=case.mask)
    assert output.dtype == dtype
    assert comparison.error(np.moveaxis(np.float64(output), -1, 2), expected["output"]) <= limit
    for n in range(case.spec.depth):
        assert carry[0][n].dtype == dtype
        assert carry[1][n].dtype == jnp.float32
        assert comparison.error(np.moveaxis(np.float64(carry[1][n]), -1, 1), expected[f"c.{n}"]) <= limit
