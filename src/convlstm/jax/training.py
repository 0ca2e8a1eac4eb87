"""One training step of a Flax forecaster with optax, compiled once per shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax._src import xla_bridge  # private, and the only one that knows whether JAX has started
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from convlstm.errors import ConfigError
from convlstm.frontend import trainer
from convlstm.frontend.processes import ONE_PROCESS, DeviceMesh, Processes, check_same
from convlstm.frontend.trainer import LEAST_WEIGHT, Optimisation, Sample, event_loss, weighted_loss
from convlstm.jax import processes as connection
from convlstm.jax.dropout import batch_part
from convlstm.jax.forecasting import forecast
from convlstm.jax.weights import from_canonical, params_to_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import canonical_shapes

Params = dict[str, Any]

_PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_KERNELS = ("kernel", "recurrent_kernel")
_MOMENTS = ("mu", "nu")
_THREADS = "NPROC"  # the variable from which XLA takes the size of its CPU thread pools

jax.tree_util.register_dataclass(Sample)  # so that a compiled step takes it as it is


class Trainer(trainer.Trainer):
    """A Flax forecaster with its optimiser."""

    def __init__(
        self, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
    ) -> None:
        device = None if optimisation is None else optimisation.device
        self._processes = ONE_PROCESS if optimisation is None else optimisation.processes
        mesh = _device_mesh(optimisation)
        if mesh is not None and self._processes.count > 1:
            connection.connect(self._processes, mesh.devices_per_process(self._processes))
        self._device = _device(device)
        platform = jax.default_backend() if self._device is None else self._device.platform
        # on CPU XLA gains nothing from bfloat16
        super().__init__(optimisation, "float32" if platform == "cpu" else "bfloat16")
        self._mesh = None if mesh is None else _mesh(mesh, device, self._processes)
        # each process computes its validation windows by itself
        self._local_mesh = None if self._mesh is None else _part_of_process(self._mesh)
        self.spec = spec
        self._params: Params = {}
        with connection.lost_connections(self._processes):
            check_same(self.gather, [spec.to_dict(), str(mesh)])  # a step would wait or fail
        self._load_weights(weights)
        decay = optax.add_decayed_weights(self._options.weight_decay, mask=_which_decay)
        self._optimiser = optax.chain(optax.scale_by_adam(), decay)
        self._moments: Any = None
        self._load_moments({})
        # the buffers of the old weights and moments are reused, so that a step needs no second copy of them
        self._step = jax.jit(self._stepped, donate_argnums=(0, 1), out_shardings=self._whole(self._mesh))
        self._evaluated = jax.jit(partial(self._loss, key=None))
        self._forecast = jax.jit(partial(self._future, key=None), static_argnames="horizon")

    @property
    def description(self) -> str:
        """Framework, device and precision in words."""
        device = self._device or jax.devices()[0]
        count = 1 if self._mesh is None else self._mesh.size
        kind = device.device_kind if count == 1 else f"{count} × {device.device_kind}"
        many = f", {self._processes.count} processes" if self._processes.count > 1 else ""
        return f"JAX {jax.__version__}, {kind}, {self._precision}{many}"

    @property
    def rank(self) -> int:
        """Number of this process among those that train together; the first one writes the files."""
        return jax.process_index() if self._processes.count > 1 else 0

    def batch_rows(self, batch_size: int) -> slice:
        """Return the rows of a batch that this process reads."""
        if self._mesh is None:
            return slice(0, batch_size)
        first, parts = self._data_parts
        size = batch_size // self._mesh.shape["data"]
        return slice(first * size, (first + parts) * size)

    def gather(self, values: float | Array) -> NDArray[np.float64]:
        """Return values of all processes along a new first axis; a call waits for the other processes."""
        array = np.asarray(values, np.float64)
        return array[None] if self._processes.count == 1 else connection.gather(array)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Raise a `LostProcessError` if another process ends within the block, and disconnect after it."""
        if self._processes.count == 1:
            yield
            return
        with connection.lost_connections(self._processes):
            yield
            jax.distributed.shutdown()  # type: ignore[no-untyped-call]

    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float:
        self._check_parts(sample)
        seed = jax.random.key_data(jax.random.key(key))
        rate, random = self._replicated((np.float32(learning_rate), seed))
        placed = self._placed(sample, self._mesh)
        self._params, self._moments, loss = self._step(self._params, self._moments, placed, rate, random)
        return float(loss)

    def _evaluate(self, sample: Sample) -> float:
        return float(self._evaluated(self._local_params(), self._placed(sample, self._local_mesh)))

    def _predict(self, sample: Sample, horizon: int) -> Array:
        future = self._forecast(self._local_params(), self._placed(sample, self._local_mesh), horizon=horizon)
        return np.moveaxis(np.asarray(future.astype(jnp.float32)), -1, 2)

    def _local_params(self) -> Params:
        """Return the parameters on the devices of this process alone."""
        if self._processes.count == 1:
            return self._params
        local: Params = jax.device_put(_first_copy(self._params), self._whole(self._local_mesh))
        return local

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return params_to_canonical(self.spec, _first_copy(self._params))

    def _load_weights(self, weights: Mapping[str, Array]) -> None:
        # what a compiled function receives on one device, it computes there
        self._params = self._replicated(from_canonical(self.spec, weights, jnp.float32))

    def _replicated(self, tree: Any) -> Any:
        """Return arrays on the device, or whole on each device of the mesh."""
        sharding = self._whole(self._mesh)
        if sharding is None or self._processes.count == 1:
            return jax.device_put(tree, sharding or self._device)

        def place(array: Any) -> jax.Array:
            values = np.asarray(array)
            # `device_put` would first compare the values of all processes
            return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

        return jax.tree.map(place, tree)

    def _whole(self, mesh: Mesh | None) -> NamedSharding | None:
        """Return the placement of whole arrays on each device of a mesh."""
        return None if mesh is None else NamedSharding(mesh, P())  # type: ignore[no-untyped-call]

    @property
    def _data_parts(self) -> tuple[int, int]:
        """The first part of the batch that this process has, and the number of its parts."""
        assert self._mesh is not None
        mesh = DeviceMesh(data=self._mesh.shape["data"], space=self._mesh.shape["space"])
        return mesh.data_parts(self._processes, self.rank)

    def _placed(self, sample: Sample, mesh: Mesh | None) -> Sample:
        """Return a sample on a mesh, its batch and its rows divided where they can be.

        On a mesh of several processes the sample is this one's part of the batch.
        """
        if mesh is None:
            return sample
        parts = {"data": mesh.shape["data"], "space": mesh.shape["space"] * self.spec.patch_size}
        first, local_parts = (0, mesh.shape["data"]) if mesh is self._local_mesh else self._data_parts

        def place(array: Any) -> jax.Array:
            size = array.shape[0] * parts["data"] // local_parts
            shape = (size, *array.shape[1:])
            start = first * (size // parts["data"])
            names = {0: "data"} | ({3: "space"} if array.ndim == 5 else {})  # (batch, time, channel, height, width)
            axes = [names.get(n) for n in range(array.ndim)]
            fitting = [name if name and shape[n] % parts[name] == 0 else None for n, name in enumerate(axes)]
            sharding = NamedSharding(mesh, P(*fitting))  # type: ignore[no-untyped-call]

            def read(index: tuple[slice, ...] | None) -> Any:
                assert index is not None
                rows, *others = index
                begin, end, _ = rows.indices(size)
                return array[(slice(begin - start, end - start), *others)]

            return jax.make_array_from_callback(shape, sharding, read)

        divided: Sample = jax.tree.map(place, sample)
        return divided

    def _check_parts(self, sample: Sample) -> None:
        """Raise an error for a training sample that cannot be divided as the mesh says."""
        if self._mesh is None:
            return
        windows, rows = sample.inputs.shape[0], sample.inputs.shape[3]
        data, space = self._mesh.shape["data"], self._mesh.shape["space"]
        parts = self._data_parts[1]
        if windows % parts or rows % (space * self.spec.patch_size):
            raise ConfigError(
                "mesh",
                expected=f"data that divides {windows * data // parts} windows, and space that divides "
                f"{rows // self.spec.patch_size} rows of patches",
                received=f"data={data},space={space}",
                hint="Change the mesh, `training.batch_size` or `data.crop`.",
            )

    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = canonical_shapes(self.spec)
        return {"count": ()} | {f"{key}.{moment}": shape for key, shape in shapes.items() for moment in _MOMENTS}

    def _moments_to_arrays(self) -> dict[str, Array]:
        adam = self._moments[0]
        arrays = {"count": np.array(_first_copy(adam.count))}
        for moment in _MOMENTS:
            moments = params_to_canonical(self.spec, _first_copy(getattr(adam, moment)))
            arrays |= {f"{key}.{moment}": array for key, array in moments.items()}
        return arrays

    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        adam, decay = self._optimiser.init(_first_copy(self._params))
        if moments:
            trees = {}
            for moment in _MOMENTS:
                arrays = {key: moments[f"{key}.{moment}"] for key in canonical_shapes(self.spec)}
                trees[moment] = from_canonical(self.spec, arrays, jnp.float32)
            adam = adam._replace(count=jnp.asarray(moments["count"]), **trees)
        self._moments = self._replicated((adam, decay))

    def _is_memory_error(self, error: RuntimeError) -> bool:
        return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)

    def _stepped(
        self, params: Params, moments: Any, sample: Sample, learning_rate: jax.Array, key: jax.Array
    ) -> tuple[Params, Any, jax.Array]:
        loss, gradient = self._value_and_gradient(params, sample, key)
        # as torch.nn.utils.clip_grad_norm_ clips, where optax differs by rounding
        shrink = jnp.minimum(self._options.clip_norm / (optax.tree.norm(gradient) + 1e-6), 1.0)
        updates, moments = self._optimiser.update(optax.tree.scale(shrink, gradient), moments, params)
        return optax.apply_updates(params, optax.tree.scale(-learning_rate, updates)), moments, loss

    def _value_and_gradient(self, params: Params, sample: Sample, key: jax.Array) -> tuple[jax.Array, Params]:
        if self._mesh is None or self._mesh.shape["data"] == 1:
            return jax.value_and_grad(self._loss)(params, sample, key=jax.random.wrap_key_data(key))
        # Divided by the compiler, the backward loop would add its part of the gradient over the devices at every step
        divided = jax.shard_map(
            self._part_of_gradient,
            mesh=self._mesh,
            in_specs=(P(), P("data"), P()),  # type: ignore[no-untyped-call]
            out_specs=P(),  # type: ignore[no-untyped-call]
            axis_names={"data"},
        )
        result: tuple[jax.Array, Params] = divided(params, sample, key)
        return result

    def _part_of_gradient(self, params: Params, sample: Sample, key: jax.Array) -> tuple[jax.Array, Params]:
        """Return the loss and the gradient of the whole batch, from the part of one place on the axis `data`."""
        rows = sample.inputs.shape[0]
        first, batch_size = lax.axis_index("data") * rows, rows * self._mesh.shape["data"]  # type: ignore[union-attr]
        local_weight = jnp.sum(sample.weight)
        whole_weight = lax.psum(local_weight, "data")  # type: ignore[no-untyped-call]
        share = local_weight / jnp.maximum(whole_weight, LEAST_WEIGHT)
        local = jax.tree.map(_varying, params)
        with batch_part(first, batch_size):
            part = jax.value_and_grad(lambda p: share * self._loss(p, sample, jax.random.wrap_key_data(key)))(local)
        total: tuple[jax.Array, Params] = lax.psum(part, "data")  # type: ignore[no-untyped-call]
        return total

    def _loss(self, params: Params, sample: Sample, key: jax.Array | None) -> jax.Array:
        future = self._future(params, sample, key, sample.targets.shape[1]).astype(jnp.float32)
        targets, weight = (jnp.moveaxis(array, 2, -1) for array in (sample.targets, sample.weight))
        loss: jax.Array
        if self.spec.thresholds:
            loss = event_loss(future, targets, weight, jax.nn.softplus, jnp.sum, jnp.maximum)
        else:
            share = self._options.absolute_error
            loss = weighted_loss(future, targets, weight, share, jnp.square, jnp.sum, jnp.maximum)
        return loss

    def _future(self, params: Params, sample: Sample, key: jax.Array | None, horizon: int) -> jax.Array:
        future: jax.Array = forecast(
            self.spec,
            params,
            jnp.moveaxis(sample.inputs, 2, -1),
            horizon,
            durations=sample.durations,
            lead_durations=sample.lead_durations,
            gaps=sample.gaps,
            key=key,
            dtype=_PRECISIONS[self._precision],
        )
        return future


def _varying(array: jax.Array) -> jax.Array:
    """Return an array of all devices as one that varies over the axis `data`, so that no gradient is summed."""
    if hasattr(lax, "pcast"):
        result: jax.Array = lax.pcast(array, "data", to="varying")
    else:  # an earlier version of JAX
        result = lax.pvary(array, "data")  # type: ignore[attr-defined]
    return result


def _device(platform: str | None) -> jax.Device | None:
    """Return the first device of a platform such as cpu, gpu or tpu."""
    if platform is None:
        return None
    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:
        available = dict.fromkeys(["cpu", *(device.platform for device in jax.devices())])
        raise ConfigError(
            "device",
            expected=f"a platform of JAX on this machine ({', '.join(available)})",
            received=repr(platform),
            hint="Pass one of these, or leave `--device` out.",
        ) from error


def _device_mesh(optimisation: Optimisation | None) -> DeviceMesh | None:
    """Return the mesh of a training; several processes without one have a part of the batch each."""
    if optimisation is None:
        return None
    count = optimisation.processes.count
    return DeviceMesh(data=count) if optimisation.mesh is None and count > 1 else optimisation.mesh


def _mesh(mesh: DeviceMesh, platform: str | None, processes: Processes) -> Mesh:
    """Return the mesh of JAX over the first devices of a platform in each process."""
    count = mesh.devices_per_process(processes)
    devices: list[jax.Device] = []
    for process in range(processes.count):
        of_process = [device for device in jax.devices(platform) if device.process_index == process]
        if count > len(of_process):
            raise ConfigError(
                "mesh",
                expected=f"at most {len(of_process)} devices in each process, as JAX has here",
                received=f"data={mesh.data},space={mesh.space} in {processes.count} processes",
                hint="Decrease it; on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight devices.",
            )
        devices += of_process[:count]
    # with automatic axes the compiler exchanges the rows that neighbours need
    names, kinds = ("data", "space"), (AxisType.Auto, AxisType.Auto)
    if processes.count == 1:
        return jax.make_mesh((mesh.data, mesh.space), names, kinds, devices=devices)  # near devices are neighbours
    return Mesh(np.reshape(devices, (mesh.data, mesh.space)), names, kinds)


def _part_of_process(mesh: Mesh) -> Mesh:
    """Return the mesh of the devices of this process."""
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if len(local) == mesh.size:
        return mesh
    space = min(mesh.shape["space"], len(local))
    return Mesh(np.reshape(local, (-1, space)), mesh.axis_names, mesh.axis_types)


def _first_copy(tree: Any) -> Any:
    """Return replicated arrays as they are on the first device of this process."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def set_threads(count: int) -> None:
    """Set the number of threads of JAX on the CPU, which it reads once, before its first computation."""
    threads = str(count)
    if os.environ.get(_THREADS) == threads:
        return
    if xla_bridge.backends_are_initialized():
        raise ConfigError(
            "threads",
            expected="a number set before JAX computes for the first time",
            received=f"{count} after that",
            hint=f"Start a new process, or set {_THREADS}={count} in its environment.",
        )
    os.environ[_THREADS] = threads


def _which_decay(params: Params) -> Params:
    """Return, in the shape of the parameters, whether each is a convolution's kernel."""
    flags: Params = jax.tree.map_with_path(lambda path, _: path[-1].key in _KERNELS, params)
    return flags
