"""Compilation and threads of JAX in training; what every trainer does is in `tests/frontends`."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError
from convlstm.frontend.trainer import Sample
from convlstm.jax.training import Trainer, set_threads
from convlstm.weights.canonical import initialise


def test_shape_is_compiled_once() -> None:
    spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)
    frames = np.ones((2, 3, 1, 8, 8), np.float32)
    trainer = Trainer(spec, initialise(spec, 0))
    for key in range(3):
        trainer.step(Sample(frames, frames, frames), 1e-3 * (key + 1), key)
    assert trainer._step._cache_size() == 1


def test_threads_are_set_before_jax_starts(refused) -> None:
    set_threads(int(os.environ["NPROC"]))
    jax.devices()
    with refused(ConfigError, "threads"):
        set_threads(7)
    code = "from convlstm.jax.training import set_threads; set_threads(3); import os; print(os.environ['NPROC'])"
    clean = {name: value for name, value in os.environ.items() if name != "NPROC"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.strip() == "3"
