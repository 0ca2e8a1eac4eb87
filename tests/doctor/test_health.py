"""What `doctor` stands on: versions as installed, and a difference from the reference that can be too large."""

from importlib.metadata import version

import pytest

from convlstm.nowcast import health
from convlstm.nowcast.health import check_frameworks, installed
from convlstm.torch.training import Trainer


def test_versions_are_those_installed(monkeypatch):
    monkeypatch.setattr(health, "PACKAGES", ("numpy", "no-such-package"))
    versions = installed()
    assert list(versions) == ["Python", "system", "numpy", "no-such-package"]
    assert versions["numpy"] == version("numpy")
    assert versions["no-such-package"] == "not installed"


def test_every_framework_agrees_with_the_reference():
    found = check_frameworks()
    assert [one.framework for one in found] == ["torch"]
    for one in found:
        assert one.well
        assert 0 < one.difference < 1e-5
        assert one.description.startswith("PyTorch ")
        assert one.description.endswith("float32")


def test_a_framework_that_differs_is_not_well(monkeypatch):
    real = Trainer.predict
    monkeypatch.setattr(Trainer, "predict", lambda self, sample, horizon: real(self, sample, horizon) + 1e-2)
    (one,) = check_frameworks()
    assert not one.well
    assert one.difference == pytest.approx(1e-2, rel=0.9)


def test_a_framework_that_is_missing_is_told_and_how_to_install_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'lightning_fabric'", name="lightning_fabric")

    monkeypatch.setattr("convlstm.nowcast.faces.import_module", missing)
    (one,) = check_frameworks()
    assert one.difference is None
    assert not one.well
    assert "no module 'lightning_fabric'; pip install 'convlstm[torch]'" in one.description


def test_a_framework_that_fails_is_told_and_not_well(monkeypatch):
    def fail(self, sample, horizon):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(Trainer, "predict", fail)
    (one,) = check_frameworks()
    assert one.difference == float("inf")
    assert one.description == "RuntimeError: no kernel image is available"
