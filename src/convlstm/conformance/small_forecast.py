"""A small forecast through a framework's trainer, compared with the reference."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from convlstm.conformance.compare import error
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.nowcast.frameworks import build_trainer
from convlstm.reference.forecaster import forecast
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise


def small_forecast(frontend: str) -> dict[str, Any]:
    """Return `description`, `difference` from the reference and `seconds` of a forecast with a small model."""
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[8, 8], kernel_size=3, peephole="channel")
    spec = ForecasterSpec(encoder=stack, patch_size=2, residual=True)
    random = np.random.default_rng(0)
    frames = random.standard_normal((2, 4, 1, 16, 12))
    weights = {key: value + 0.1 * random.standard_normal(value.shape) for key, value in initialise(spec, 0).items()}
    truth = forecast(spec, weights, frames, 3)
    inputs = frames.astype(np.float32)
    trainer = build_trainer(frontend, spec, weights, Optimisation(precision="float32"))
    started = time.perf_counter()
    result = trainer.predict(Sample(inputs, inputs[:, :0], inputs[:, :0]), truth.shape[1])
    seconds = time.perf_counter() - started
    return {"description": trainer.description, "difference": error(result, truth), "seconds": seconds}
