"""Winograd's convolutions: their algebra, the reference at forced sizes, and where they are taken and left."""

from __future__ import annotations

from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from convlstm.conformance.adapters.torch import run
from convlstm.conformance.compare import compare
from convlstm.conformance.random_layers import COMMON, Case, random_case
from convlstm.cost.memory import runs
from convlstm.cost.workload import Call
from convlstm.engine.torch import buffers as torch_memory
from convlstm.engine.torch import fused as torch_fused
from convlstm.engine.torch import winograd as torch_winograd
from convlstm.engine.torch import winograd_layer as torch_winograd_layer
from convlstm.engine.torch import winograd_rule as rule
from convlstm.engine.torch.native import SWITCH, is_installed
from convlstm.engine.torch.winograd import transforms
from convlstm.torch import ConvLSTM

CHOICES = [(), ("x",), ("weight_ih", "bias"), ("weight_hh",), ("h", "c"), ("x", "weight", "h", "c", "peephole")]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Serve layers of any size; return for each call since whether x and h are convolved together."""
    for name, value in {
        "_MIN_SAVED_PER_VALUE": 0,
        "_MIN_SAVED_PER_STEP": 0,
        "_MIN_POSITIONS": 0,
        "_CHANNEL_BLOCK": 1,
    }.items():
        monkeypatch.setattr(rule, name, value)
    calls: list[bool] = []
    made = torch_winograd_layer.WinogradConvolutions._winograd.func

    def seen(self: Any) -> Any:
        calls.append(self._joint is not None)
        return made(self)

    monkeypatch.setattr(torch_winograd_layer.WinogradConvolutions._winograd, "func", seen)
    return calls


@pytest.fixture(params=["native", "plain"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the operators of `convlstm-native` and without."""
    if request.param == "native" and not is_installed():
        pytest.skip("convlstm-native is not installed")
    monkeypatch.setenv(SWITCH, str(int(request.param == "native")))


@pytest.mark.parametrize("rows", rule.KERNELS)
def test_the_transforms_are_a_convolution(rows: int) -> None:
    a, g, b = transforms(rows)
    assert a.shape[0] == rule.ROWS + rows - 1 == b.shape[0]
    for matrix in (a, b):
        assert torch.equal(matrix.float().double(), matrix)
    random = np.random.default_rng(rows)
    w, h = random.standard_normal(rows), random.standard_normal(len(b))
    found = a.T @ ((g @ torch.tensor(w)) * (b @ torch.tensor(h)))
    np.testing.assert_allclose(found, np.correlate(h, w, "valid"), rtol=1e-13, atol=1e-13)


def _cases(**fixed: Any) -> list[Case]:
    """Return random layers of the common cell whose grids have rows that this serves."""
    fixed |= {"spatial_dims": 2, "dropout": 0.0, "recurrent_dilation": 1}
    drawn = (random_case(seed, **COMMON, **fixed) for seed in count(70_000))
    served = (
        case
        for case in drawn
        if case.mask is None
        and case.arrays["x"].shape[1] > 1
        and any(grid[0] % rule.ROWS == 0 for grid in case.spec.grids(case.arrays["x"].shape[3:]))
    )
    return list(islice(served, 25))


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("fixed", [{"kernel_size": 3, "padding": "same", "stride": 1, "dilation": 1}, {}])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (3, 5), (5, 1)])
def test_layers_hold_the_contract(used: list[bool], kernel: tuple[int, int], fixed: dict[str, Any]) -> None:
    for case in _cases(recurrent_kernel_size=kernel, peephole="none", **fixed):
        found = compare(case, run, "float32")
        assert not found.misses("float32"), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"
    assert len(used) >= 50  # forward and backward at least
    if fixed and kernel == (3, 3):
        assert all(used)


def _layer(kernel: int | tuple[int, int], **options: Any) -> ConvLSTM:
    torch.manual_seed(3)
    return ConvLSTM(4, options.pop("hidden", 8), kernel, **options)


def _derivatives(layer: ConvLSTM, x: Tensor, state: Any, wanted: tuple[str, ...]) -> list[Tensor]:
    """Return output, state, and the gradients of what is wanted."""
    names = dict(layer.named_parameters()) | {"x": x}
    if state is not None:
        names |= {"h": state[0][0], "c": state[1][0]}
    for name, value in names.items():
        value.requires_grad_(name.startswith(wanted))
    output, (h, c) = layer(x, state)
    results = [output, *h, *c]
    if not any(value.requires_grad for value in names.values()):
        return results
    torch.manual_seed(5)
    loss = sum((value * torch.randn(value.shape).to(value.dtype)).sum() for value in results)
    return [*results, *torch.autograd.grad(loss, [value for value in names.values() if value.requires_grad])]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("near", [1, 1 << 13, 1 << 15, 1 << 20])
@pytest.mark.parametrize("wanted", CHOICES)
@pytest.mark.parametrize("form", ["joint", "apart", "given", "reverse", "both ways", "wide rows"])
def test_larger_grids_and_parts_of_a_batch(
    used: list[bool], monkeypatch: pytest.MonkeyPatch, form: str, wanted: tuple[str, ...], near: int
) -> None:
    """Against the generic implementation in float64, which other tests hold to the reference.

    The room for products is that of one sample, of some samples of a step, of some steps and of all.
    """
    for module in (rule, torch_winograd):
        monkeypatch.setattr(module, "PRODUCT_VALUES", near)
    kernel, options = {"wide rows": (5, {}), "apart": (3, {"recurrent_kernel_size": 5})}.get(form, (3, {}))
    direction = {"reverse": "reverse", "both ways": "bidirectional"}.get(form, "forward")
    layer = _layer(kernel, direction=direction, peephole="channel", **options)
    x = torch.randn(3, 5, 4, 12, 7)
    state = ((torch.randn(3, 8, 12, 7),), (torch.randn(3, 8, 12, 7),)) if form == "given" else None
    got = _derivatives(layer, x, state, wanted)
    assert used
    assert all(together == (form != "apart") for together in used)
    before = len(used)
    wide_state = None if state is None else tuple(tuple(s.detach().double() for s in part) for part in state)
    monkeypatch.setattr(torch_fused, "serves", lambda *_: False)
    expected = _derivatives(layer.double(), x.detach().double(), wide_state, wanted)
    assert len(used) == before
    for a, b in zip(got, expected, strict=True):
        scale = max(1.0, float(b.detach().abs().max()))
        assert float((a.double() - b).detach().abs().max()) <= 1e-5 * scale


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_it_is_taken_where_it_is_quicker_and_left_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    add = torch_winograd.Winograd.add
    monkeypatch.setattr(torch_winograd.Winograd, "add", lambda self, *a: (taken.append(self), add(self, *a))[1])

    def is_taken(
        kernel: int = 5,
        size: tuple[int, int] = (16, 16),
        *,
        steps: int = 2,
        batch: int = 8,
        dtype: Any = torch.float32,
        **options: Any,
    ) -> bool:
        taken.clear()
        layer = ConvLSTM(64, 64, kernel, **options).to(dtype)
        with torch.no_grad():
            layer(torch.randn(batch, steps, 64, *size).to(dtype))
        return bool(taken)

    assert is_taken()
    assert is_taken(kernel=3, size=(32, 32))
    assert not is_taken(batch=1)
    assert is_taken(steps=1)
    assert not is_taken(steps=1, batch=4)
    assert not is_taken(kernel=7)
    assert not is_taken(recurrent_dilation=(1, 2))
    assert not is_taken(size=(18, 16))
    assert not is_taken(dtype=torch.bfloat16)
    with monkeypatch.context() as lower:
        lower.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        assert not is_taken()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not is_taken()
    with FlopCounterMode(display=False) as counter:
        assert not is_taken()
    one = 2 * 8 * 256 * (16 * 16) * 64 * (5 * 5)
    assert counter.get_total_flops() == 3 * one  # two steps' input, and the state of the second


def _large() -> tuple[ConvLSTM, Tensor]:
    torch.manual_seed(7)
    return ConvLSTM(16, [64, 64], 5), torch.randn(8, 3, 16, 16, 16)


def _gradients(layer: ConvLSTM, x: Tensor) -> list[Tensor]:
    output, (h, c) = layer(x)
    return list(torch.autograd.grad((output**2).sum() + h[-1].sum() + c[0].sum(), list(layer.parameters())))


@pytest.mark.usefixtures("_either_way")
def test_layers_as_large_as_users_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit is moved: 16 and 64 channels, as oneDNN takes them, beside the generic implementation in float64."""
    layer, x = _large()
    seen: list[object] = []
    backward = torch_winograd.Winograd.backward
    watched = lambda self, *a, **k: (seen.append(self), backward(self, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(torch_winograd.Winograd, "backward", watched)
    output, got = layer(x)[0].detach(), _gradients(layer, x)
    assert seen
    monkeypatch.setattr(torch_fused, "serves", lambda *_: False)
    layer.double()
    expected = _gradients(layer, x.double())
    assert float((output.double() - layer(x.double())[0].detach()).abs().max()) <= 1e-5
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) <= 1e-5


def test_segments_and_a_second_backward_give_the_same() -> None:
    layer, x = _large()
    plain = _gradients(layer, x)
    torch.manual_seed(7)
    segmented = _gradients(ConvLSTM(16, [64, 64], 5, checkpoint=2), x)
    for a, b in zip(segmented, plain, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) <= 1e-5
    loss = layer(x)[0].pow(2).sum()
    first = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    for a, b in zip(torch.autograd.grad(loss, list(layer.parameters())), first, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) <= 1e-5


def test_its_room_comes_back_and_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = torch_memory._Pool()
    monkeypatch.setattr(torch_memory, "_POOL", pool)
    layer, x = _large()
    waiting = []
    for _ in range(4):
        _gradients(layer, x)
        waiting.append(pool.waiting_bytes)
        assert pool.used_bytes == 0
    assert waiting[1] == waiting[2] == waiting[3] > 0


@pytest.mark.parametrize(("kernel", "channels"), [(3, 64), (5, 64), (5, 8), (3, 16)])
def test_the_count_of_memory_follows_the_engine(kernel: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[bool, bool]] = []
    convolutions = torch_winograd_layer.convolutions

    def seen(*arguments: Any) -> Any:
        found = convolutions(*arguments)
        taken = isinstance(found, torch_winograd_layer.WinogradConvolutions)
        made.append((taken, taken and found._joint is not None))
        return found

    monkeypatch.setattr(torch_fused, "convolutions", seen)
    layer = ConvLSTM(channels, [64, 32], kernel)
    with torch.no_grad():
        layer(torch.randn(4, 2, channels, 32, 32))
    call = Call("layer", layer.spec, 2, (32, 32), runs=1, input_gradient=False, state_gradient=False)
    counted = [(run.uses_winograd, run.is_joint) for (run,) in runs(call, 4, 4)]
    assert counted == made
