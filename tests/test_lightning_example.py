"""The example for Lightning trains, is better than persistence, and saves a model that the package loads."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "lightning" / "train.py"
PAGE = Path(__file__).parents[1] / "docs" / "torch.md"


@pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="needs lightning: pip install 'lightning!=2.6.2,!=2.6.3'"
)
def test_a_training_with_lightning_is_better_than_persistence_and_saves_its_weights(tmp_path: Path) -> None:
    model = tmp_path / "rain.safetensors"
    command = [sys.executable, str(SCRIPT), "--output", str(model)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    before, after, test, persistence = map(float, re.findall(r"\d\.\d{5}", done.stdout))
    assert after < 0.8 * before
    assert test < 0.9 * persistence
    assert [path.name for path in tmp_path.iterdir()] == ["rain.safetensors"]  # and no checkpoint with pickle

    import torch

    from convlstm.torch import Forecaster, load

    forecaster = load(model)
    assert isinstance(forecaster, Forecaster)
    assert forecaster(torch.zeros(1, 6, 1, 32, 32), 6).shape == (1, 6, 1, 32, 32)


def test_script_and_page_exclude_the_versions_with_malicious_code() -> None:
    for path in (SCRIPT, PAGE):
        assert re.findall(r"pip install.*lightning(\S*)'", path.read_text(encoding="utf-8")) == ["!=2.6.2,!=2.6.3"]
