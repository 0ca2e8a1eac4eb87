"""A model as a serialised StableHLO module of `jax.export`, with open batch, time and space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from convlstm.frontend.exported_inputs import FRAMES, GAPS_PREFIX, ExportedModel
from convlstm.jax import functional
from convlstm.jax.forecasting import forecast
from convlstm.jax.weights import from_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import AXIS_NAMES
from convlstm.spec.types import Array


def write(path: Path, model: ExportedModel) -> None:
    """Write a module whose inputs are those of the example, with open batch and time."""
    params = from_canonical(model.spec, model.weights, jnp.float32)

    def run(frames: jax.Array, **times: Any) -> Any:
        if isinstance(model.spec, ForecasterSpec):
            assert model.horizon is not None
            future = forecast(model.spec, params, frames, model.horizon, **times)
            return jax.nn.sigmoid(future) if model.probability else future
        (h, c), output = functional.layer(model.spec, params, frames, **times)
        return output, (h, c)

    frames, named = _arrays(model.inputs)
    rank, patch = frames.ndim - 3, model.spec.patch_size if isinstance(model.spec, ForecasterSpec) else 1
    text = ["batch", "time", *(map(str, frames.shape[2:-1])), str(frames.shape[-1])]
    constraints: list[str] = []
    if model.open_space:
        for axis, name in enumerate(AXIS_NAMES[rank]):
            text[2 + axis] = name if patch == 1 else f"{patch}*{name}"
            constraints.append(f"{name} >= {frames.shape[2 + axis] // patch}")
    sizes = export.symbolic_shape(", ".join(text), constraints=constraints)
    given = {
        name: jax.tree.map(lambda array, name=name: _symbolic(array, name, sizes), value)
        for name, value in named.items()
    }
    example = jax.ShapeDtypeStruct(sizes, jnp.float32)  # type: ignore[no-untyped-call]
    exported = export.export(jax.jit(run))(example, **given)
    path.write_bytes(exported.serialize())


def runner(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs a module of `write` on arrays by name, with channels first."""
    exported = export.deserialize(bytearray(path.read_bytes()))

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        frames, named = _arrays(inputs)
        result = exported.call(frames, **named)  # type: ignore[no-untyped-call]
        if not isinstance(result, tuple | list):
            return {"forecast": np.moveaxis(np.asarray(result), -1, 2)}
        output, (h, c) = result
        parts = output if isinstance(output, tuple | list) else (output,)
        names = ["output"] if len(parts) == 1 else [f"output.{n}" for n in range(len(parts))]
        found = {name: np.moveaxis(np.asarray(part), -1, 2) for name, part in zip(names, parts, strict=True)}
        for letter, states in (("h", h), ("c", c)):
            found |= {f"{letter}_n.{n}": np.moveaxis(np.asarray(part), -1, 1) for n, part in enumerate(states)}
        return found

    return run


def _arrays(inputs: Mapping[str, Array]) -> tuple[Array, dict[str, Any]]:
    """Return the frames with channels last, and the other inputs by the names of the function's arguments."""
    name = next(name for name in FRAMES if name in inputs)
    others: dict[str, Any] = {key: array for key, array in inputs.items() if key != name}
    gaps = tuple(others.pop(key) for key in list(others) if key.startswith(GAPS_PREFIX))
    return np.moveaxis(inputs[name], 2, -1), others | ({"gaps": gaps} if gaps else {})


def _symbolic(array: Array, name: str, sizes: Any) -> jax.ShapeDtypeStruct:
    steps = array.shape[1] if name == "lead_durations" else sizes[1]
    return jax.ShapeDtypeStruct((sizes[0], steps), array.dtype)  # type: ignore[no-untyped-call]
