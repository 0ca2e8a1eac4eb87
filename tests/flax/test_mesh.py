"""Training on a mesh of devices: the losses and weights of one device, in a process with four virtual devices."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from convlstm.errors import ConfigError
from convlstm.frontend.processes import DeviceMesh
from convlstm.nowcast.frameworks import build_trainer

SCRIPT = """
import jax
import numpy as np
from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError
from convlstm.frontend.processes import DeviceMesh
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.jax.training import Trainer
from convlstm.weights.canonical import initialise

spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=[4, 3], kernel_size=3), patch_size=2)

def samples(rows=16, batch=4):
    random = np.random.default_rng(0)
    for _ in range(50):
        frames = random.standard_normal((batch, 6, 1, rows, 8)).astype(np.float32)
        weight = (random.random((batch, 2, 1, rows, 8)) < 0.7).astype(np.float32)
        yield Sample(frames[:, :4], frames[:, 4:], weight)

def train(mesh):
    trainer = Trainer(spec, initialise(spec, 0), Optimisation(precision="float32", mesh=mesh))
    losses = [trainer.step(sample, 0.01, step) for step, sample in enumerate(samples())]
    sample = next(samples(rows=12, batch=3))  # divided where it can be
    return losses, trainer.weights(), trainer.predict(sample, 2), trainer.loss(sample), trainer.state()

whole = train(None)
for sizes in ((4, 1), (1, 4), (2, 2)):
    parts = train(DeviceMesh(data=sizes[0], space=sizes[1]))
    np.testing.assert_allclose(parts[0], whole[0], rtol=0, atol=1e-5)
    for name, weight in whole[1].items():
        np.testing.assert_allclose(parts[1][name], weight, rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(parts[2], whole[2], rtol=0, atol=1e-4)
    assert abs(parts[3] - whole[3]) < 1e-5
    print(sizes, max(abs(np.subtract(parts[0], whole[0]))))
trainer = Trainer(spec, initialise(spec, 0), Optimisation(mesh=DeviceMesh(data=4)))
values = trainer._replicated((np.float32(0), jax.random.key_data(jax.random.key(0))))
placed = trainer._placed(next(samples()), trainer._mesh)
program = trainer._step.lower(trainer._params, trainer._moments, placed, *values).compile().as_text()
assert 0 < program.count(" all-reduce(") <= 3  # the sums of weights and gradients, none at each time step
trainer = Trainer(spec, initialise(spec, 0), Optimisation(mesh=DeviceMesh(space=4)))
trainer.restore(whole[4])
assert np.isfinite(trainer.step(next(samples()), 0.01, 0))
refused = (
    (DeviceMesh(data=8), None),
    (DeviceMesh(data=4), next(samples(batch=3))),
    (DeviceMesh(space=4), next(samples(rows=12))),
)
for mesh, sample in refused:
    try:
        Trainer(spec, initialise(spec, 0), Optimisation(mesh=mesh)).step(sample, 0.01, 0)
    except ConfigError as error:
        assert error.argument == "mesh"
    else:
        raise AssertionError(mesh)
print("right")
"""


def test_a_mesh_has_the_losses_of_one_device() -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip().endswith("right"), done.stdout + done.stderr[-1500:]


@pytest.mark.parametrize("text", ["", "data", "data=0", "data=-1", "data=2,data=2", "time=2", "space=1.5"])
def test_a_mesh_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="data=4,space=2"):
        DeviceMesh.of_text(text)


def test_another_framework_has_no_mesh() -> None:
    from convlstm import ConvLSTMSpec, ForecasterSpec
    from convlstm.frontend.trainer import Optimisation
    from convlstm.weights.canonical import initialise

    spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3))
    with pytest.raises(ConfigError, match="mesh: expected none with torch"):
        build_trainer("torch", spec, initialise(spec, 0), Optimisation(mesh=DeviceMesh(data=2)))
