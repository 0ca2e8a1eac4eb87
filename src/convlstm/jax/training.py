"""One training step of a Flax forecaster with optax, compiled once per shape."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax._src import xla_bridge  # private, and the only one that knows whether JAX has started
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from convlstm.errors import ConfigError
from convlstm.frontend import trainer
from convlstm.frontend.processes import DeviceMesh
from convlstm.frontend.trainer import Optimisation, Sample, event_loss, weighted_loss
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
        self._device = _device(None if optimisation is None else optimisation.device)
        platform = jax.default_backend() if self._device is None else self._device.platform
        self._mesh = None if optimisation is None else _mesh(optimisation.mesh, optimisation.device)
        # on CPU XLA gains nothing from bfloat16
        super().__init__(optimisation, "float32" if platform == "cpu" else "bfloat16")
        self.spec = spec
        self._params: Params = {}
        self._load_weights(weights)
        decay = optax.add_decayed_weights(self._options.weight_decay, mask=_which_decay)
        self._optimiser = optax.chain(optax.scale_by_adam(), decay)
        self._moments: Any = self._optimiser.init(self._params)
        # the buffers of the old weights and moments are reused, so that a step needs no second copy of them
        self._step = jax.jit(self._stepped, donate_argnums=(0, 1))
        self._evaluated = jax.jit(partial(self._loss, key=None))
        self._forecast = jax.jit(partial(self._future, key=None), static_argnames="horizon")

    @property
    def description(self) -> str:
        """Framework, device and precision in words."""
        device = self._device or jax.devices()[0]
        count = 1 if self._mesh is None else self._mesh.size
        kind = device.device_kind if count == 1 else f"{count} × {device.device_kind}"
        return f"JAX {jax.__version__}, {kind}, {self._precision}"

    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float:
        rate, random = jnp.float32(learning_rate), jax.random.key(key)
        self._check_parts(sample)
        sample = self._placed(sample)
        self._params, self._moments, loss = self._step(self._params, self._moments, sample, rate, random)
        return float(loss)

    def _evaluate(self, sample: Sample) -> float:
        return float(self._evaluated(self._params, self._placed(sample)))

    def _predict(self, sample: Sample, horizon: int) -> Array:
        future = self._forecast(self._params, self._placed(sample), horizon=horizon)
        return np.moveaxis(np.asarray(future.astype(jnp.float32)), -1, 2)

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return params_to_canonical(self.spec, self._params)

    def _load_weights(self, weights: Mapping[str, Array]) -> None:
        # what a compiled function receives on one device, it computes there
        self._params = self._replicated(from_canonical(self.spec, weights, jnp.float32))

    def _replicated(self, tree: Any) -> Any:
        """Return arrays on the device, or whole on each device of the mesh."""
        return jax.device_put(tree, self._device if self._mesh is None else NamedSharding(self._mesh, P()))  # type: ignore[no-untyped-call]

    def _placed(self, sample: Sample) -> Sample:
        """Return a sample on the mesh, its batch and its rows divided where they can be."""
        if self._mesh is None:
            return sample
        mesh = self._mesh
        parts = {"data": mesh.shape["data"], "space": mesh.shape["space"] * self.spec.patch_size}

        def place(array: Any) -> jax.Array:
            names = {0: "data"} | ({3: "space"} if array.ndim == 5 else {})  # (batch, time, channel, height, width)
            axes = [names.get(n) for n in range(array.ndim)]
            fitting = [name if name and array.shape[n] % parts[name] == 0 else None for n, name in enumerate(axes)]
            sharding = NamedSharding(mesh, P(*fitting))  # type: ignore[no-untyped-call]
            placed: jax.Array = jax.device_put(array, sharding)
            return placed

        divided: Sample = jax.tree.map(place, sample)
        return divided

    def _check_parts(self, sample: Sample) -> None:
        """Raise an error for a training sample that cannot be divided as the mesh says."""
        if self._mesh is None:
            return
        batch, rows = sample.inputs.shape[0], sample.inputs.shape[3]
        data, space = self._mesh.shape["data"], self._mesh.shape["space"]
        if batch % data or rows % (space * self.spec.patch_size):
            raise ConfigError(
                "mesh",
                expected=f"data that divides {batch} windows, and space that divides {rows // self.spec.patch_size} "
                "rows of patches",
                received=f"data={data},space={space}",
                hint="Change the mesh, `training.batch_size` or `data.crop`.",
            )

    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = canonical_shapes(self.spec)
        return {"count": ()} | {f"{key}.{moment}": shape for key, shape in shapes.items() for moment in _MOMENTS}

    def _moments_to_arrays(self) -> dict[str, Array]:
        adam = self._moments[0]
        arrays = {"count": np.array(adam.count)}
        for moment in _MOMENTS:
            moments = params_to_canonical(self.spec, getattr(adam, moment))
            arrays |= {f"{key}.{moment}": array for key, array in moments.items()}
        return arrays

    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        adam, decay = self._optimiser.init(self._params)
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
        loss, gradient = jax.value_and_grad(self._loss)(params, sample, key=key)
        # as torch.nn.utils.clip_grad_norm_ clips, where optax differs by rounding
        shrink = jnp.minimum(self._options.clip_norm / (optax.tree.norm(gradient) + 1e-6), 1.0)
        updates, moments = self._optimiser.update(optax.tree.scale(shrink, gradient), moments, params)
        return optax.apply_updates(params, optax.tree.scale(-learning_rate, updates)), moments, loss

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


def _mesh(mesh: DeviceMesh | None, platform: str | None) -> Mesh | None:
    """Return the mesh of JAX over the first devices of a platform."""
    if mesh is None:
        return None
    devices = jax.devices(platform)
    if mesh.count > len(devices):
        raise ConfigError(
            "mesh",
            expected=f"at most {len(devices)} devices, as JAX has here",
            received=f"data={mesh.data},space={mesh.space}",
            hint="Decrease it; on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight devices.",
        )
    # with automatic axes the compiler exchanges the rows that neighbours need
    kinds = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((mesh.data, mesh.space), ("data", "space"), kinds, devices=devices[: mesh.count])


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
