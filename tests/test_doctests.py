"""Every example in a docstring runs, and every public class and function of a face has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import convlstm

# a command's docstring shows shell lines, and its run is tested in tests/cli
MODULES = [
    item.name
    for item in pkgutil.walk_packages(convlstm.__path__, "convlstm.")
    if not item.name.startswith("convlstm.cli") and not item.name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["convlstm", *MODULES])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name.endswith("triton_gates"):
        pytest.skip(
            "needs Triton, whose import ends a process with TensorFlow (tests/engine/torch/test_triton_gates.py)"
        )
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


@pytest.mark.parametrize("face", ["torch", "flax", "mlx"])
def test_every_public_name_has_an_example(face: str) -> None:
    module = importlib.import_module(f"convlstm.{face}")
    names = [name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name))]
    assert {"ConvLSTM", "ConvLSTMCell", "Forecaster", "load", "load_canonical", "save", "to_canonical"} <= set(names)
    for name in names:
        assert ">>>" in (getattr(module, name).__doc__ or ""), f"{face}.{name}"
