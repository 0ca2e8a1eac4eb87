"""The comparison itself stands in scripts/parity.py, which `make parity` runs over thousands of cases."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "parity.py"


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    found = spec_from_file_location("parity", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = sys.modules["parity"] = module_from_spec(found)
    found.loader.exec_module(module)
    return module
