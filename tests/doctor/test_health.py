"""What `doctor` stands on: versions as installed, and a difference from the reference that can be too large."""

from importlib.metadata import version

import numpy as np
import pytest

from convlstm import __version__
from convlstm.conformance.environments import ENVIRONMENTS, Environment, choose_environments, run_task
from convlstm.conformance.small_forecast import small_forecast
from convlstm.doctor import health
from convlstm.doctor.health import Health, check_environments, installed
from convlstm.errors import ConfigError, DependencyError
from convlstm.torch.training import Trainer

TORCH, ABSENT = ENVIRONMENTS[0], Environment("absent", "torch", ("torch", "no_such_package"))


def test_versions_are_those_installed(monkeypatch):
    monkeypatch.setattr(health, "PACKAGES", ("numpy", "no-such-package"))
    versions = installed()
    assert list(versions) == ["convlstm", "Python", "system", "numpy", "no-such-package"]
    assert versions["convlstm"] == __version__
    assert versions["numpy"] == version("numpy")
    assert versions["no-such-package"] == "not installed"


def test_setup_agrees_and_a_missing_one_says_what_to_install():
    well, absent = check_environments([TORCH, ABSENT])
    assert well.well
    assert 0 < well.difference < 1e-5
    assert well.description.startswith("PyTorch ")
    assert not absent.well
    assert absent.difference is None
    assert absent.description == "pip install 'convlstm[torch]'"


def test_a_framework_that_differs_is_not_well(monkeypatch):
    real = Trainer.predict
    monkeypatch.setattr(Trainer, "predict", lambda self, sample, horizon: real(self, sample, horizon) + 1e-2)
    found = small_forecast("torch")
    assert found["difference"] == pytest.approx(1e-2, rel=0.9)
    assert not Health("torch", **found).well


def test_a_process_that_fails_is_told_in_its_last_line():
    broken = Environment("torch", "torch", ("torch",), {"PYTHONPATH": "/no/such/place"})
    assert check_environments([broken])[0].well, "an environment reaches the process and does not replace its own"
    (one,) = check_environments([Environment("keras-none", "keras", ("keras",), {"KERAS_BACKEND": "none"})])
    assert one.difference == np.inf
    assert "none" in one.description
    assert "\n" not in one.description


def test_tasks_of_what_is_not_installed_are_refused(refused):
    with refused(DependencyError, "absent"):
        run_task(ABSENT, "drop_in")


def test_choose_setups(refused):
    assert [one.name for one in choose_environments([])] == [one.name for one in ENVIRONMENTS]
    with refused(ConfigError, "framework"):
        choose_environments(["caffe"])
