"""One file of weights through every framework: the bytes stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", ["layer", "forecaster"])
def test_torch_keras_flax_mlx_torch(family: str, seed: int, tmp_path: Path) -> None:
    from convlstm import flax, keras, mlx, torch

    spec = (random_case if family == "layer" else random_forecast_case)(seed).spec
    build = torch.ConvLSTM.from_spec if family == "layer" else torch.Forecaster
    first = before = tmp_path / "0.safetensors"
    digests = [torch.save(first, build(spec), {"units": "mm/h"})]
    for n, face in enumerate((keras, flax, mlx, torch), 1):
        after = tmp_path / f"{n}.safetensors"
        digests.append(face.save(after, face.load(before), {"units": "mm/h"}))
        assert after.read_bytes() == first.read_bytes(), face.__name__
        before = after
    assert len(set(digests)) == 1
