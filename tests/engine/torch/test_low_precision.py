"""bfloat16 where oneDNN's own convolutions are wrong on processors with AMX (docs/known_gaps.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convlstm.conformance import compare as comparison
from convlstm.conformance.adapters.torch import run
from convlstm.conformance.narrow_layers import SMOOTH, family_of, narrow_case
from convlstm.engine.torch import convolution as torch_convolution
from convlstm.torch import ConvLSTM

NARROW = [seed for seed in range(100, 160) if family_of(seed) != "any"]
aten = torch.ops.aten


@pytest.mark.parametrize("seed", NARROW)
def test_narrow_layers_are_the_reference_within_rounding(seed: int) -> None:
    found = comparison.compare(narrow_case(seed, **SMOOTH), run, "bfloat16")
    assert found.value <= 5e-2, found.label
    assert found.derivative <= 1e-1, found.label  # where a convolution is wrong, this is near 1 or above


class Convolutions(TorchDispatchMode):
    """Keeps the sizes of every convolution and convolution gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is aten.convolution.default:
            x, weight, _, stride, padding, dilation = args[:6]
            self.seen.append((x.shape[2:], weight.shape[2:], stride, padding, dilation))
        if function is aten.convolution_backward.default:
            _, x, weight, _, stride, padding, dilation = args[:7]
            self.seen.append((x.shape[2:], weight.shape[2:], stride, padding, dilation))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Keep the sizes of every convolution that adds to its result, which no dispatch mode sees."""
    seen, original = [], torch_convolution.convolution_with_sum

    def convolution_with_sum(z: Tensor, h: Tensor, *arguments: Any) -> None:
        seen.append((tuple(z.shape[2:]), arguments[3]))
        original(z, h, *arguments)

    monkeypatch.setattr(torch_convolution, "convolution_with_sum", convolution_with_sum)
    return seen


@contextmanager
def only_right_forms() -> Iterator[None]:
    """Fail if a convolution has a form that oneDNN computes wrongly, whatever processor this runs on."""
    with Convolutions() as convolutions:
        yield
    assert convolutions.seen
    for size, kernel, stride, padding, dilation in convolutions.seen:
        columns = (size[-1] + 2 * padding[-1] - dilation[-1] * (kernel[-1] - 1) - 1) // stride[-1] + 1
        assert stride[-1] == 1 or columns > 1, (size, kernel, stride, padding, dilation)


def steps(layer: ConvLSTM, x: Tensor) -> None:
    layer(x)[0].float().square().sum().backward()


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}, {"padding": "valid"}, {"boundary": "replicate"}], ids=str)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "autocast"])
def test_no_strided_convolution_has_one_output_column(options: dict[str, Any], kind: str) -> None:
    layer, x = ConvLSTM(16, 4, (3, 3), stride=(1, 3), **options), torch.randn(2, 3, 16, 9, 3)
    with only_right_forms():
        if kind == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                steps(layer, x)
        else:
            dtype = getattr(torch, kind)
            steps(layer.to(dtype), x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_strided_convolution_with_a_sum_has_one_output_column(dtype: torch.dtype, sums: list[Any]) -> None:
    if not torch_convolution._has_sum(dtype):
        pytest.skip(f"PyTorch has no convolution with a sum in {dtype} here")
    steps(ConvLSTM(16, 4, (3, 3), stride=(1, 3)).to(dtype), torch.randn(2, 3, 16, 9, 3).to(dtype))
    assert sums
    assert all(stride[-1] == 1 or size[-1] > 1 for size, stride in sums)


def test_float32_that_may_run_in_bfloat16() -> None:
    layer, x = ConvLSTM(16, 4, (3, 3), stride=(1, 2)), torch.randn(2, 3, 16, 9, 2)
    settings = torch.backends.mkldnn.conv
    before = settings.fp32_precision
    with torch.no_grad():
        expected = layer.double()(x.double())[0]
        layer.float()
        try:
            settings.fp32_precision = "bf16"
            output = layer(x)[0]
        finally:
            settings.fp32_precision = before
    assert float((output - expected).abs().max()) < 5e-2


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}], ids=str)
def test_no_convolution_pads_the_depth_of_flat_frames(options: dict[str, Any]) -> None:
    layer, x = ConvLSTM(3, 3, (3, 3, 3), **options).bfloat16(), torch.randn(2, 3, 3, 1, 6, 7).bfloat16()
    with Convolutions() as convolutions:
        layer(x)
    assert convolutions.seen
    for size, kernel, _, padding, _ in convolutions.seen:
        assert size[0] > 1 or kernel[0] == 1 or padding[0] == 0, (size, kernel, padding)
