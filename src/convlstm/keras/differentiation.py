"""Gradients and compilation on the active backend: the one file that knows how each does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import keras

from convlstm.keras.engines import BACKEND, Tensor

Tensors = dict[str, Tensor]


def detached(variable: Any) -> Tensor:
    """Return a variable's value as a tensor that no gradient is recorded for."""
    tensor = keras.ops.convert_to_tensor(variable)
    return tensor.detach() if BACKEND == "torch" else tensor


def value_and_gradients(function: Callable[[Tensors], Tensor], tensors: Tensors) -> tuple[Tensor, Tensors]:
    """Return a function's value and its gradient by every tensor it is given, zeros where one does not enter."""
    if BACKEND == "jax":
        value, gradients = import_module("jax").value_and_grad(function)(tensors)
        return value, gradients
    if BACKEND == "tensorflow":
        tensorflow = import_module("tensorflow")
        with tensorflow.GradientTape() as tape:
            tape.watch(tensors)
            value = function(tensors)
        return value, tape.gradient(value, tensors, unconnected_gradients="zero")
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    value = function(leaves)
    gradients = import_module("torch").autograd.grad(
        value, list(leaves.values()), materialize_grads=True, allow_unused=True
    )
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def compiled(function: Callable[..., Any], static: str | None = None) -> Callable[..., Any]:
    """Return a pure function of tensors as the backend runs it fastest; an argument `static` is a plain number."""
    if BACKEND == "jax":
        jitted: Callable[..., Any] = import_module("jax").jit(function, static_argnames=static)
        return jitted
    if BACKEND == "tensorflow":
        graph: Callable[..., Any] = import_module("tensorflow").function(function, autograph=False)
        return graph
    return function


def replaced(variables: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> keras.StatelessScope:
    """Return a scope in which variables have the values of these tensors."""
    return keras.StatelessScope(state_mapping=[(variables[name], tensor) for name, tensor in tensors.items()])
