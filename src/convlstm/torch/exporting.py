"""A module as an exported program (`*.pt2`) with open batch, time and space."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from convlstm.frontend.exported_inputs import GAPS_PREFIX, ExportedModel
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.torch.forecaster import Forecaster
from convlstm.torch.layer import ConvLSTM
from convlstm.torch.weights import load_canonical


class _Program(nn.Module):
    """A layer or a forecaster as a function of named tensors, with a fixed horizon."""

    def __init__(self, module: ConvLSTM | Forecaster, horizon: int | None, probability: bool) -> None:
        super().__init__()
        self.module, self.horizon, self.probability = module, horizon, probability

    def forward(
        self,
        frames: Tensor,
        *,
        mask: Tensor | None = None,
        durations: Tensor | None = None,
        gaps: Any = None,
        lead_durations: Tensor | None = None,
    ) -> Any:
        """Return the forecast, or output and (h_n, c_n) of a layer."""
        times = {"mask": mask, "durations": durations, "gaps": gaps}
        if isinstance(self.module, ConvLSTM):
            return self.module(frames, **times)
        assert self.horizon is not None
        forecast = self.module(frames, self.horizon, lead_durations=lead_durations, **times)
        return forecast.sigmoid() if self.probability else forecast


def write(path: Path, model: ExportedModel) -> None:
    """Write an exported program whose inputs are those of the example, with open batch and time."""
    with without_messages(), torch.no_grad():
        torch.export.save(exported_program(model), path)


def exported_program(model: ExportedModel) -> torch.export.ExportedProgram:
    """Return a program whose inputs are those of the example, with open batch and time."""
    module: ConvLSTM | Forecaster
    module = Forecaster(model.spec) if isinstance(model.spec, ForecasterSpec) else ConvLSTM.from_spec(model.spec)
    load_canonical(module, model.weights)
    frames, named = _tensors(model.inputs)
    patch = model.spec.patch_size if isinstance(model.spec, ForecasterSpec) else 1
    first: dict[int, Any] = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    for axis in range(3, frames.ndim) if model.open_space else ():
        first[axis] = Dim.DYNAMIC if patch == 1 else patch * Dim(f"patches_{axis}", min=2)
    shapes: dict[str, Any] = {"frames": first}
    for name, value in named.items():
        by_step: dict[int, Any] = {0: Dim.DYNAMIC} | ({} if name == "lead_durations" else {1: Dim.DYNAMIC})
        shapes[name] = (by_step,) * len(value) if isinstance(value, tuple) else by_step
    program = _Program(module, model.horizon, model.probability).eval()
    return torch.export.export(program, (frames,), named, dynamic_shapes=shapes, strict=False)


@contextmanager
def without_messages() -> Iterator[None]:
    """Silence the warnings and log messages of PyTorch about its own steps."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def runner(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs a program of `write` on arrays by name."""
    with without_messages():
        program = torch.export.load(path).module()
    return run_by_name(program)


def run_by_name(program: Callable[..., Any]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs a program on arrays by name."""

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        frames, named = _tensors(inputs)
        with without_messages(), torch.no_grad():
            result = program(frames, **named)
        if isinstance(result, Tensor):
            return {"forecast": result.numpy()}
        output, (h, c) = result
        parts = output if isinstance(output, tuple | list) else (output,)
        names = ["output"] if len(parts) == 1 else [f"output.{n}" for n in range(len(parts))]
        found = dict(zip(names, parts, strict=True))
        found |= {f"h_n.{n}": part for n, part in enumerate(h)} | {f"c_n.{n}": part for n, part in enumerate(c)}
        return {name: part.numpy() for name, part in found.items()}

    return run


def _tensors(inputs: Mapping[str, Array]) -> tuple[Tensor, dict[str, Any]]:
    """Return the frames, and the other inputs by the names of the program's arguments."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
    frames = tensors.pop("x") if "x" in tensors else tensors.pop("frames")
    gaps = tuple(tensors.pop(name) for name in list(tensors) if name.startswith(GAPS_PREFIX))
    return frames, tensors | ({"gaps": gaps} if gaps else {})
