"""Every test of PyTorch starts from one seed on one thread."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_seed_one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
