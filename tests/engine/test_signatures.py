"""The engines have the same functions with the same parameters; read from the source, without their frameworks."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ENGINES = ("torch", "jax", "tensorflow", "mlx")
FUNCTIONS = {
    "input_convolution": ["layer", "weights", "x"],
    "recurrent_convolution": ["layer", "weights", "h"],
    "duration_scale": ["layer", "weights", "durations"],
    "retention": ["layer", "weights", "gaps"],
    "step": ["layer", "weights", "z_x", "state", "candidate_scale", "retention", "masks"],
    "sequence": ["layer", "weights", "x", "state", "steps", "reverse", "mask", "durations", "gaps", "masks"],
}
FURTHER = {
    # JAX has a gradient rule for the convolutions in its loop; `generic` gives the derivatives that the rule lacks
    ("jax", "input_convolution"): ["by_rule"],
    # the scan of JAX carries arrays, so that a traced flag of each step says where h is zero
    ("jax", "recurrent_convolution"): ["generic", "h_is_zero"],
    ("jax", "step"): ["generic", "h_is_zero"],
    # a segment of a sequence, in a checkpointed call, does not know whether a step before it was valid
    ("jax", "sequence"): ["generic", "output_mask"],
    ("torch", "sequence"): ["output_mask"],
    # TensorFlow cannot save a graph whose gradient captures a TensorArray, so only training has its own backward pass
    ("tensorflow", "sequence"): ["training"],
    # MLX has no fused implementation, so that its step itself leaves out the convolution of a zero state
    ("mlx", "step"): ["h_is_zero"],
}
"""Parameters of one engine that follow the common ones, with the reason."""


def _functions(engine: str) -> dict[str, ast.FunctionDef]:
    """Return the functions of an engine's recurrence by name, with those that it imports from its own durations."""
    package = find_spec("convlstm")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "engine" / engine
    tree = ast.parse((folder / "recurrence.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == f"convlstm.engine.{engine}.durations":
            durations = ast.parse((folder / "durations.py").read_text(encoding="utf-8"))
            names = {alias.name for alias in node.names}
            functions |= {f.name: f for f in durations.body if isinstance(f, ast.FunctionDef) and f.name in names}
    return functions


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_parameters(engine: str, name: str) -> None:
    arguments = _functions(engine)[name].args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    assert names == FUNCTIONS[name] + FURTHER.get((engine, name), [])
    assert arguments.vararg is None
    assert arguments.kwarg is None


@pytest.mark.parametrize("engine", ENGINES)
def test_an_absent_initial_state_is_none(engine: str) -> None:
    arguments = {argument.arg: argument for argument in _functions(engine)["sequence"].args.args}
    annotation = arguments["state"].annotation
    assert annotation is not None
    assert ast.unparse(annotation) == "State | None"


@pytest.mark.parametrize("engine", ENGINES)
def test_options_are_keywords(engine: str) -> None:
    functions = _functions(engine)
    for name in ("step", "sequence"):
        assert [argument.arg for argument in functions[name].args.args] == FUNCTIONS[name][:4]
