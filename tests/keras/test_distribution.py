"""Training by `keras.distribution` on JAX, in a process with four virtual devices: the losses of one device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convlstm.keras.engines import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution shards layers on the JAX backend alone")

SCRIPT = """
import sys
import keras, numpy as np
import convlstm.keras

if sys.argv[1] == "parallel":
    keras.distribution.set_distribution(keras.distribution.DataParallel())
keras.utils.set_random_seed(0)
layer = convlstm.keras.ConvLSTM2D(4, 3, padding="same", return_sequences=True)
model = keras.Sequential([keras.Input((5, 8, 8, 1)), layer, keras.layers.Conv3D(1, 3, padding="same")])
model.compile(keras.optimizers.Adam(0.01), "mse")
frames = np.random.default_rng(0).random((16, 6, 8, 8, 1), np.float32)
history = model.fit(frames[:, :5], frames[:, 1:], batch_size=8, epochs=10, shuffle=False, verbose=0)
devices = layer.cell.kernel.value.sharding.device_set
np.savez(sys.argv[2], losses=history.history["loss"], devices=len(devices), kernel=layer.cell.kernel.numpy())
"""


def test_data_parallel_has_the_losses_of_one_device(tmp_path: Path) -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    results = {}
    for name in ("one", "parallel"):
        command = [sys.executable, "-c", SCRIPT, name, str(tmp_path / f"{name}.npz")]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": flags}, check=False
        )
        assert done.returncode == 0, done.stderr[-1500:]
        results[name] = np.load(tmp_path / f"{name}.npz")
    one, parallel = results["one"], results["parallel"]
    assert (int(one["devices"]), int(parallel["devices"])) == (1, 4)
    np.testing.assert_allclose(parallel["losses"], one["losses"], rtol=0, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0] - 0.01  # steps that change nothing would pass too
    np.testing.assert_allclose(parallel["kernel"], one["kernel"], rtol=0, atol=1e-4)
