"""`import convlstm` is fast and loads no framework; each subpackage loads what it names and no more."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from types import ModuleType

import pytest

import convlstm

FRAMEWORKS = {"torch", "lightning_fabric", "jax", "flax", "haiku", "optax", "keras", "tensorflow", "mlx"}
HEAVY = FRAMEWORKS | {
    *("numpy", "xarray", "pandas", "scipy", "skimage", "matplotlib", "scores", "netCDF4", "zarr"),
    *("typer", "rich", "pydantic", "yaml", "jinja2"),
}
STATEMENTS = {
    "import convlstm": HEAVY,
    "import convlstm.errors, convlstm.files": HEAVY,
    "from convlstm import ConvLSTMSpec, ForecasterSpec": HEAVY - {"numpy"},
    "import convlstm.weights.checkpoint, convlstm.conformance.random_layers, convlstm.spec.presets": HEAVY - {"numpy"},
    "import convlstm.torch": HEAVY - {"numpy", "torch"},
    "import convlstm.mlx": HEAVY - {"numpy", "mlx"},
    "import convlstm.flax": FRAMEWORKS - {"jax", "flax", "optax"},  # flax.nnx itself loads optax
    "import convlstm.haiku": FRAMEWORKS - {"jax", "haiku", "flax"},  # haiku itself loads flax
    "import convlstm.keras": FRAMEWORKS - {"keras", "tensorflow", "jax", "torch"},
    "import convlstm.interop": (HEAVY | {"h5py"}) - {"numpy"},
    "import convlstm.export": (HEAVY | {"onnx", "onnxruntime"}) - {"numpy"},
    "import convlstm.hub": (HEAVY | {"huggingface_hub"}) - {"numpy"},
    "import convlstm.pysteps": FRAMEWORKS | {"pysteps"},
    "import convlstm.xarray": FRAMEWORKS | {"matplotlib", "scores", "skimage"},
    "import convlstm.data": FRAMEWORKS,
    "import convlstm.verification": FRAMEWORKS,
    "import convlstm.report.page": FRAMEWORKS,
    "import pathlib, convlstm.cli.forecast_output as o; o.check_output(pathlib.Path('a.nc'), 'cf')": (
        FRAMEWORKS | {"scores", "arch", "matplotlib", "jinja2"}
    ),
    "import convlstm.nowcast": FRAMEWORKS,
    "import convlstm.conformance.campaign": FRAMEWORKS,
    "import convlstm.cli.main": FRAMEWORKS,
}


def loaded_by(statement: str) -> set[str]:
    """Return the top packages that a fresh process holds after a statement."""
    script = f"import sys; {statement}; import json; print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("statement", STATEMENTS)
def test_what_an_import_does_not_load(statement: str) -> None:
    assert not loaded_by(statement) & STATEMENTS[statement]


def test_the_public_names_are_there_on_first_use() -> None:
    for name in convlstm.__all__:
        assert getattr(convlstm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'ConvGRU'"):
        _ = convlstm.ConvGRU


IMPORT_LINES = {
    "ConvLSTM": ["torch", "keras", "flax", "haiku", "mlx"],
    "ConvLSTMCell": ["torch", "keras", "flax", "haiku", "mlx"],
    "StatefulConvLSTM": ["torch", "mlx"],
    "ConvLSTM2D": ["keras"],
    "ConvLSTMStack": ["keras"],
    "Forecaster": ["torch", "keras", "flax", "mlx"],
    "load": ["torch", "keras", "flax", "mlx"],
    "save": ["torch", "keras", "flax", "mlx"],
}


def test_an_import_of_the_pytorch_layer_does_not_load_the_compiler() -> None:
    script = "import sys, convlstm.torch; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("name", IMPORT_LINES)
def test_the_name_of_a_framework_says_where_to_import_it_from(name: str) -> None:
    with pytest.raises(ImportError) as by_statement:
        exec(f"from convlstm import {name}")  # noqa: S102
    with pytest.raises(AttributeError) as by_attribute:
        getattr(convlstm, name)
    assert str(by_statement.value) == str(by_attribute.value)
    lines = re.findall("`(from convlstm[.](.+?) import .+?)`", str(by_statement.value))
    assert [framework for _, framework in lines] == IMPORT_LINES[name]
    assert not hasattr(convlstm, name)


def test_a_script_that_imports_a_layer_from_the_top_prints_the_import_lines() -> None:
    command = [sys.executable, "-c", "from convlstm import ConvLSTM"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "`from convlstm.torch import ConvLSTM`, `from convlstm.keras import ConvLSTM2D`" in last


@pytest.mark.parametrize("name", IMPORT_LINES)
def test_the_import_lines_of_the_hint_run(name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(convlstm, name)
    for line in re.findall("`(from .+?)`", str(caught.value)):
        exec(line)  # noqa: S102


def modules() -> list[str]:
    return [item.name for item in pkgutil.walk_packages(convlstm.__path__, "convlstm.")]


@pytest.mark.parametrize("name", [n for n in modules() if not n.endswith("__main__")])
def test_every_module_imports_and_says_what_it_is(name: str) -> None:
    if name.endswith("triton_gates"):
        pytest.skip(
            "needs Triton, whose import ends a process with TensorFlow (tests/engine/torch/test_triton_gates.py)"
        )
    module: ModuleType = importlib.import_module(name)
    assert module.__doc__
    assert module.__doc__.strip().endswith((".", ")"))
