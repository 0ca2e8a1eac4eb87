"""Training a forecaster in PyTorch, on whatever device and precision Lightning Fabric is given."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convlstm.engine.torch.native import is_native
from convlstm.frontend import trainer
from convlstm.frontend.processes import check_same
from convlstm.frontend.trainer import DECAYED, Optimisation, Sample, event_loss, weighted_loss
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.torch.dropout import BatchPart, Source
from convlstm.torch.forecaster import Forecaster
from convlstm.torch.processes import Precision, build_fabric, connect, disconnect, lost_connections
from convlstm.torch.weights import load_canonical, shard_like, to_canonical, whole

_PRECISIONS: dict[str, Precision] = {"float32": "32-true", "bfloat16": "bf16-mixed"}
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

# Fabric announces precision and connections on standard error, where a command says nothing but what is wrong
for name in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.WARNING)


class Trainer(trainer.Trainer):
    """A PyTorch forecaster with its optimiser."""

    def __init__(
        self, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
    ) -> None:
        super().__init__(optimisation, _best_precision(None if optimisation is None else optimisation.device))
        self._processes = self._options.processes
        self._fabric = build_fabric(self._options.device, self._processes, _PRECISIONS[self._precision])
        if self._processes.count > 1:
            connect(self._fabric, self._processes)
        self.module = Forecaster(spec)
        load_canonical(self.module, weights)
        with lost_connections(self._processes):
            check_same(self.gather, [spec.to_dict(), self._processes.strategy])  # DDP and FSDP would wait or fail
            # before the optimiser, because FSDP replaces parameters
            self._model = self._fabric.setup_module(self.module)
        kernels: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.module.named_parameters():
            (kernels if any(word in name for word in DECAYED) else others).append(parameter)
        groups = [
            {"params": kernels, "weight_decay": self._options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-3)
        self._optimiser: Any = self._fabric.setup_optimizers(optimiser)

    @property
    def description(self) -> str:
        """Framework, compiled operators if they are used, device and precision in words."""
        device = self._fabric.device
        native = " with convlstm-native" if is_native(torch.empty(0, device=device)) else ""
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        count = self._processes.count
        many = f", {count} processes ({self._processes.strategy})" if count > 1 else ""
        return f"PyTorch {torch.__version__}{native}, {where}, {self._precision}{many}"

    @property
    def rank(self) -> int:
        """Number of this process among those that train together; the first one writes the files."""
        return int(self._fabric.global_rank)

    def gather(self, values: float | Array) -> NDArray[np.float64]:
        """Return values of all processes along a new first axis; a call waits for the other processes."""
        array = np.asarray(values, np.float64)
        if self._processes.count == 1:
            return array[None]
        rows = torch.zeros(self._processes.count, *array.shape, dtype=torch.float64)
        rows[self.rank] = torch.from_numpy(array)
        total: Any = self._fabric.all_reduce(self._fabric.to_device(rows), reduce_op="sum")  # all others are zeros
        gathered: NDArray[np.float64] = total.cpu().numpy()
        return gathered

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Raise a `LostProcessError` if another process ends within the block, and disconnect after it."""
        if self._processes.count == 1:
            yield
            return
        with lost_connections(self._processes):
            yield
        disconnect()

    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._model.train()
        self._optimiser.zero_grad(set_to_none=True)
        count, parts = self._processes.count, sample.split(self._options.accumulate)
        total_weight = self._total_weight(sample)
        loss = torch.zeros((), device=self._fabric.device)
        for number, part in enumerate(parts):
            source = self._random_source(key, len(part.inputs), self.rank * len(parts) + number)
            is_last = number == len(parts) - 1
            with self._fabric.no_backward_sync(self._model, enabled=not is_last):
                part_loss = self._loss(part, source, total_weight)
                self._fabric.backward(part_loss * count)  # DDP and FSDP take the mean over the processes
            loss += part_loss.detach()
        self._fabric.clip_gradients(
            self._model, self._optimiser, max_norm=self._options.clip_norm, error_if_nonfinite=False
        )
        self._optimiser.step()
        return float(self.gather(float(loss)).sum())

    def _total_weight(self, sample: Sample) -> float | None:
        """Return the weight of the whole batch; None if the sample is the whole, whose loss computes it."""
        if self._processes.count * self._options.accumulate == 1:
            return None
        return float(self.gather(sample.weight.sum(dtype=np.float64)).sum())

    def _random_source(self, key: int, size: int, number: int) -> Source:
        """Return the source of random numbers of one part of a batch, by its number among all equal parts."""
        generator = torch.Generator(device=self._fabric.device).manual_seed(key)
        batch_size = size * self._processes.count * self._options.accumulate
        return generator if size == batch_size else BatchPart(generator, number * size, batch_size)

    def _evaluate(self, sample: Sample) -> float:
        with self._inference():
            return float(self._loss(sample, None))

    def _predict(self, sample: Sample, horizon: int) -> Array:
        with self._inference():
            result: Array = self._forecast(sample, horizon, None).float().cpu().numpy()
            return result

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Compute without gradients within the block."""
        is_sharded = self._processes.strategy == "fsdp"
        self._model.eval()
        # FSDP keeps the gathered weights, which must not be tensors of the inference mode
        mode: AbstractContextManager[Any] = torch.no_grad() if is_sharded else torch.inference_mode()
        with mode:
            yield
        if is_sharded:  # only a backward pass frees the gathered weights, and they hide changes of the shards
            sharded: Any = self.module
            sharded.reshard()

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return to_canonical(self.module)

    def _load_weights(self, weights: Mapping[str, Array]) -> None:
        load_canonical(self.module, weights)

    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}.{moment}": () if moment == "step" else tuple(parameter.shape)
            for name, parameter in self.module.named_parameters()
            for moment in _MOMENTS
        }

    def _moments_to_arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for name, parameter in self.module.named_parameters():
            moments = self._optimiser.state.get(parameter, {})
            arrays |= {f"{name}.{moment}": whole(moments[moment]).cpu().numpy().copy() for moment in moments}
        return arrays

    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        self._optimiser.state.clear()
        for name, parameter in self.module.named_parameters() if moments else ():
            arrays = {moment: torch.from_numpy(moments[f"{name}.{moment}"].copy()) for moment in _MOMENTS}
            self._optimiser.state[parameter] = {
                moment: array if moment == "step" else shard_like(parameter, array.to(parameter.device))
                for moment, array in arrays.items()
            }

    def _is_memory_error(self, error: RuntimeError) -> bool:
        # PyTorch has an error class for memory of devices, and none for the host's
        return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

    def _loss(self, sample: Sample, source: Source, total_weight: float | None = None) -> Tensor:
        forecast = self._forecast(sample, sample.targets.shape[1], source)
        targets, weight = self._tensor(sample.targets), self._tensor(sample.weight)
        loss: Tensor
        if self.module.spec.thresholds:
            loss = event_loss(forecast.float(), targets, weight, F.softplus, torch.sum, torch.clamp, total_weight)
        else:
            share, operations = self._options.absolute_error, (torch.square, torch.sum, torch.clamp)
            loss = weighted_loss(forecast.float(), targets, weight, share, *operations, total_weight)
        return loss

    def _forecast(self, sample: Sample, horizon: int, source: Source) -> Tensor:
        times: dict[str, Any] = {name: None if a is None else self._tensor(a) for name, a in sample.times().items()}
        result: Tensor = self._model(self._tensor(sample.inputs), horizon, generator=source, **times)
        return result

    def _tensor(self, array: Array) -> Tensor:
        tensor: Tensor = self._fabric.to_device(torch.from_numpy(array))
        return tensor


def set_threads(count: int) -> None:
    """Set the number of threads that PyTorch computes with."""
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)  # otherwise Fabric changes it for several processes


def _best_precision(device: str | None) -> str:
    if (device is None or device.startswith("cuda")) and torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    quick = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if quick else "float32"
