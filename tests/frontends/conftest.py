"""The frontends behind one way to build and call their layers, so that one test serves all of them.

Tests hold NumPy arrays in PyTorch's layout: frames (batch, time, channels, *space), states (batch, channels, *space).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest

Array = np.ndarray


class Result(NamedTuple):
    """What a layer returns: its outputs, one for each direction that is kept apart, and its states."""

    outputs: tuple[Array, ...]
    h: tuple[Array, ...]
    c: tuple[Array, ...]

    @property
    def output(self) -> Array:
        (output,) = self.outputs
        return output

    @property
    def states(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return self.h, self.c

    @property
    def arrays(self) -> list[Array]:
        return [*self.outputs, *self.h, *self.c]


class Frontend:
    """A frontend: its package, how to make and read its arrays, and how to call and differentiate its modules."""

    name: str
    channels_last = True
    compiles = False
    """Whether each shape costs a compilation, so that a test takes fewer of them."""

    def __getattr__(self, name: str) -> Any:
        """Return what the frontend's package has by that name, as `ConvLSTM`."""
        return getattr(import_module(f"convlstm.{self.name}"), name)

    def to_native(self, array: Array) -> Any:
        """Return the frontend's array of the same values, type and axes."""
        raise NotImplementedError

    def to_numpy(self, array: Any) -> Array:
        """Return a NumPy array of the same values and axes."""
        return np.array(array)

    def build(self, kind: str, *given: Any, dtype: str = "float32", **options: Any) -> Any:
        """Return a module by the name of its class."""
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """Seed the library's global generator, where it has one."""
        raise NotImplementedError

    def generator(self, seed: int) -> dict[str, Any]:
        """Return the argument of a call that seeds what it samples."""
        raise NotImplementedError

    def derivatives(self, module: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        """Return a function of x and more native arrays, which returns the gradients of module and x."""
        raise NotImplementedError

    def canonical_gradients(self, module: Any, gradients: Any) -> dict[str, Array]:
        """Return the gradients of a module's parameters as canonical arrays."""
        raise NotImplementedError

    def parameters(self, module: Any) -> dict[str, Any]:
        """Return the arrays that are saved of a module, by name."""
        raise NotImplementedError

    def natural_call(self, module: Any) -> Callable[..., Any]:
        """Return a module's call with the arguments and results of PyTorch's."""
        return module

    def start_cell(self, cell: Any, rows: int, size: tuple[int, ...]) -> list[Array]:
        """Return the zero state (h, c) of a cell."""
        return [self.channels_first(part, len(size)) for part in cell.init_hidden(rows, size)]

    def from_spec(self, spec: Any) -> Any:
        """Return a layer of a spec."""
        return self.ConvLSTM.from_spec(spec)

    # what follows is the same for every frontend

    def sample_masks(self, spec: Any, rows: int, size: tuple[int, ...], steps: int, seed: int) -> Any:
        """Return the dropout masks of a sequence, sampled for frames of its first step."""
        x = self.frames(rows, 1, spec.in_channels, *size)
        return self.from_spec(spec).sample_masks(x, steps, **self.generator(seed))

    def native(self, array: Array, dims: int = 2) -> Any:
        """Return the frontend's array, in its layout, of one that has its channels before the space."""
        array = np.moveaxis(array, -1 - dims, -1) if self.channels_last else array
        return self.to_native(np.ascontiguousarray(array))

    def channels_first(self, array: Any, dims: int = 2) -> Array:
        """Return a NumPy array with the channels before the space."""
        array = self.to_numpy(array)
        return np.moveaxis(array, -1, -1 - dims) if self.channels_last else array

    def converted(self, given: Any) -> Any:
        """Return arguments with their NumPy arrays replaced by the frontend's."""
        if isinstance(given, tuple):
            return tuple(self.converted(part) for part in given)
        return self.to_native(given) if isinstance(given, np.ndarray) else given

    def native_state(self, state: Any, dims: int = 2) -> Any:
        if state is None or isinstance(state, np.ndarray):
            return state if state is None else self.native(state, dims)
        return type(state)(self.native_state(part, dims) for part in state)

    def call(self, layer: Any, x: Array | None, state: Any = None, *, seed: int | None = None, **given: Any) -> Result:
        """Call a layer on frames (batch, time, channels, *space), or without the batch."""
        dims = getattr(layer, "layer", layer).spec.spatial_dims  # of a stateful layer, its layer's
        given = {name: self.converted(value) for name, value in given.items()}
        if seed is not None:
            given |= self.generator(seed)
        if state is not None:
            given["state"] = self.native_state(state, dims)
        output, (h, c) = self.natural_call(layer)(None if x is None else self.native(x, dims), **given)
        outputs = output if isinstance(output, tuple) else (output,)
        return Result(*(tuple(self.channels_first(part, dims) for part in parts) for parts in (outputs, h, c)))

    def step(self, cell: Any, x: Array | None, state: Any = None, **given: Any) -> list[Array]:
        """Return the state (h, c) of a cell after a step."""
        dims = cell.spec.spatial_dims
        given = {name: self.converted(value) for name, value in given.items()}
        frame = None if x is None else self.native(x, dims)
        after = self.natural_call(cell)(frame, self.native_state(state, dims), **given)
        return [self.channels_first(part, dims) for part in after]

    def forecast(self, model: Any, frames: Array, horizon: int, *, seed: int | None = None, **given: Any) -> Array:
        """Return a forecast (batch, lead_time, channels, height, width)."""
        given = {name: self.converted(value) for name, value in given.items()}
        if seed is not None:
            given |= self.generator(seed)
        return self.channels_first(model(self.native(frames), horizon, **given))

    def forecast_and_state(
        self, model: Any, frames: Array, horizon: int, state: Any = None, **given: Any
    ) -> tuple[Array, tuple[tuple[Array, ...], tuple[Array, ...]]]:
        """Return a forecast, and the states (h, c) of the encoder after the last frame."""
        given = {name: self.converted(value) for name, value in given.items()}
        given |= {"state": None if state is None else self.native_state(state), "return_state": True}
        future, (h, c) = self.natural_forecast(model)(self.native(frames), horizon, **given)
        states = tuple(tuple(self.channels_first(part) for part in parts) for parts in (h, c))
        return self.channels_first(future), states

    def natural_forecast(self, model: Any) -> Callable[..., Any]:
        """Return a forecaster's call with the arguments and results of PyTorch's."""
        return model

    def gradient(self, module: Any, loss: Callable[..., Any]) -> Callable[..., tuple[dict[str, Array], Array]]:
        """Return a function of x, whose channels come before the space, and of other arrays.

        It returns the gradients of `loss(call, x, *others)`, a function of native arrays: the canonical ones of the
        module's parameters, and that of x. `call` takes and returns what PyTorch's module does.
        """
        dims = 2 if hasattr(module.spec, "encoder") else module.spec.spatial_dims
        derive = self.derivatives(module, loss)

        def gradient(x: Array, *others: Array) -> tuple[dict[str, Array], Array]:
            of_module, of_x = derive(self.native(x, dims), *(self.to_native(other) for other in others))
            return self.canonical_gradients(module, of_module), self.channels_first(of_x, dims)

        return gradient

    def descend(self, module: Any, gradients: dict[str, Array], rate: float) -> None:
        """Move a module's weights against their gradients."""
        arrays = self.to_canonical(module)
        self.load_canonical(module, {key: array - rate * gradients[key] for key, array in arrays.items()})

    def frames(self, *shape: int, dtype: str = "float32") -> Any:
        """Return zeros of a shape (..., channels, height, width), in the frontend's layout."""
        return self.to_native(self.foreign(*shape).astype(dtype))

    def foreign(self, *shape: int) -> Array:
        """Return the same zeros as a NumPy array."""
        zeros = np.zeros(shape, dtype=np.float32)
        return np.ascontiguousarray(np.moveaxis(zeros, -3, -1)) if self.channels_last else zeros

    def ones(self, *shape: int, dtype: str = "float32") -> Any:
        """Return ones of a shape without channels."""
        return self.to_native(np.ones(shape, dtype=dtype))


class Torch(Frontend):
    name = "torch"
    channels_last = False

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.library = torch

    def to_native(self, array: Array) -> Any:
        return self.library.from_numpy(np.asarray(array, order="C"))

    def to_numpy(self, array: Any) -> Array:
        return array.detach().clone().numpy()

    def build(self, kind: str, *given: Any, dtype: str = "float32", **options: Any) -> Any:
        if kind != "Forecaster":
            options["dtype"] = getattr(self.library, dtype)
        return getattr(self, kind)(*given, **options)

    def seed(self, seed: int) -> None:
        """Seed the library's global generator."""
        self.library.manual_seed(seed)

    def generator(self, seed: int) -> dict[str, Any]:
        return {"generator": self.library.Generator().manual_seed(seed)}

    def derivatives(self, module: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        def derive(x: Any, *others: Any) -> tuple[Any, Any]:
            x = x.clone().requires_grad_()
            module.zero_grad()
            loss(module, x, *others).backward()
            return [parameter.grad for parameter in module.parameters()], x.grad

        return derive

    def canonical_gradients(self, module: Any, gradients: Any) -> dict[str, Array]:
        twin = deepcopy(module)
        with self.library.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter.zero_() if gradient is None else parameter.copy_(gradient)
        return self.to_canonical(twin)

    def parameters(self, module: Any) -> dict[str, Any]:
        """Return the arrays that are saved of a module, by name."""
        return dict(module.state_dict())


class Mlx(Frontend):
    name = "mlx"

    def __init__(self) -> None:
        mx = pytest.importorskip("mlx.core")
        mx.set_default_device(mx.cpu)
        mx.random.seed(0)
        self.library = mx

    def to_native(self, array: Array) -> Any:
        name = "bool_" if array.dtype == bool else array.dtype.name
        return self.library.array(array, dtype=getattr(self.library, name))

    def build(self, kind: str, *given: Any, dtype: str = "float32", **options: Any) -> Any:
        if kind != "Forecaster":
            options["dtype"] = getattr(self.library, dtype)
        return getattr(self, kind)(*given, **options)

    def seed(self, seed: int) -> None:
        """Seed the library's global generator."""
        self.library.random.seed(seed)

    def generator(self, seed: int) -> dict[str, Any]:
        return {"key": self.library.random.key(seed)}

    def derivatives(self, module: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        parameters = module.parameters()

        def total(parameters: Any, x: Any, *others: Any) -> Any:
            module.update(parameters)
            return loss(module, x, *others)

        def derive(x: Any, *others: Any) -> tuple[Any, Any]:
            gradients = self.library.grad(total, argnums=(0, 1))(module.parameters(), x, *others)
            module.update(parameters)
            return gradients

        return derive

    def canonical_gradients(self, module: Any, gradients: Any) -> dict[str, Array]:
        twin = deepcopy(module)
        twin.update(gradients)
        return self.to_canonical(twin)

    def parameters(self, module: Any) -> dict[str, Any]:
        """Return the arrays that are saved of a module, by name."""
        from mlx.utils import tree_flatten

        return dict(tree_flatten(module.parameters()))


class Flax(Frontend):
    name = "flax"
    compiles = True

    def __init__(self) -> None:
        self.library = pytest.importorskip("jax")
        self.nnx = pytest.importorskip("flax.nnx")

    def to_native(self, array: Array) -> Any:
        return self.library.numpy.asarray(array)

    def build(self, kind: str, *given: Any, dtype: str = "float32", **options: Any) -> Any:
        return getattr(self, kind)(*given, param_dtype=dtype, rngs=self.nnx.Rngs(0), **options)

    def generator(self, seed: int) -> dict[str, Any]:
        return {"rngs": self.library.random.key(seed)}

    def from_spec(self, spec: Any) -> Any:
        return self.ConvLSTM.from_spec(spec, rngs=self.nnx.Rngs(0))

    def derivatives(self, module: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        graph, _, rest = self.nnx.split(module, self.nnx.Param, ...)

        def total(params: Any, x: Any, *others: Any) -> Any:
            return loss(self.natural_call(self.nnx.merge(graph, params, rest)), x, *others)

        compiled = self.library.jit(self.library.grad(total, (0, 1)))
        return lambda x, *others: compiled(self.nnx.state(module, self.nnx.Param), x, *others)

    def canonical_gradients(self, module: Any, gradients: Any) -> dict[str, Array]:
        return self.params_to_canonical(module.spec, self.nnx.to_pure_dict(gradients))

    def parameters(self, module: Any) -> dict[str, Any]:
        leaves = self.library.tree_util.tree_leaves_with_path(module.params)
        return {self.library.tree_util.keystr(path): leaf for path, leaf in leaves}

    def natural_call(self, module: Any) -> Callable[..., Any]:
        if isinstance(module, self.Forecaster):
            return module

        def call(x: Any, state: Any = None, **given: Any) -> Any:
            carry = None if state is None else self.State(*state)
            if isinstance(module, self.ConvLSTMCell):
                return module(carry, x, **given)[0]
            after, output = module(x, carry, **given)
            return output, after

        return call

    def natural_forecast(self, model: Any) -> Callable[..., Any]:
        def call(frames: Any, horizon: int, *, state: Any, return_state: bool, **given: Any) -> Any:
            carry = None if state is None else self.State(*state)
            return model(frames, horizon, carry=carry, return_carry=return_state, **given)[::-1]

        return call

    def start_cell(self, cell: Any, rows: int, size: tuple[int, ...]) -> list[Array]:
        carry = cell.initialize_carry((rows, *size, cell.spec.in_channels))
        return [self.channels_first(part, len(size)) for part in carry]


FRONTENDS: dict[str, type[Frontend]] = {"torch": Torch, "mlx": Mlx, "flax": Flax}


@pytest.fixture(params=FRONTENDS)
def frontend(request: pytest.FixtureRequest) -> Frontend:
    """Each frontend; a test for some of them parametrizes this fixture indirectly with their names."""
    return FRONTENDS[request.param]()


@pytest.fixture
def float64(frontend: Frontend) -> Iterator[None]:
    """Let JAX compute in float64, as the others do where they are asked to."""
    if isinstance(frontend, Flax):
        with frontend.library.enable_x64(True):
            yield
    else:
        yield
