"""The compiled operators of `convlstm-native` beside PyTorch's own operations, and layers with and without them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from convlstm.conformance.adapters.torch import run
from convlstm.conformance.compare import compare
from convlstm.conformance.random_layers import common_case
from convlstm.engine.torch import gates as torch_gates
from convlstm.engine.torch import native as torch_native
from convlstm.engine.torch.gates import NativeGates, TorchGates, gate_arithmetic
from convlstm.engine.torch.native import SWITCH, is_installed, is_native, operators, put_channels_last
from convlstm.engine.torch.winograd import NativeWinograd, Winograd
from convlstm.errors import ConfigError
from convlstm.torch import ConvLSTM

ROOT = Path(__file__).parents[3]
needs_native = pytest.mark.skipif(not is_installed(), reason="convlstm-native is not installed")

LAST = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
SHAPES = [(2, 3, 7), (2, 5, 4, 6), (1, 16, 3, 3), (3, 1, 4, 5), (2, 4, 3, 2, 5), (1, 8, 1, 1)]


def _step(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return z, c before, c after, h, dh and dc of a step, in the order of the fused implementation."""
    torch.manual_seed(sum(shape))
    batch, hidden, *grid = shape
    order = {"memory_format": LAST[len(shape)]}
    types = [dtype, torch.float32, torch.float32, dtype, dtype, torch.float32]
    widths = [4 * hidden, *[hidden] * 5]
    return [
        (3 * torch.randn(batch, n, *grid)).to(kind).contiguous(**order) for n, kind in zip(widths, types, strict=True)
    ]


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no compiler")
def test_it_is_there_where_it_can_be_built() -> None:
    """`make test` builds it wherever there is a compiler: a build that fails shows here, not as skipped tests."""
    assert is_installed()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_peepholes", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gates_are_those_of_torch_operations(
    shape: tuple[int, ...], with_peepholes: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    peephole = torch.randn(3, shape[1], generator=torch.Generator().manual_seed(1)) if with_peepholes else None
    found: list[list[Tensor]] = []
    for kind, switch in ((NativeGates, "1"), (TorchGates, "0")):
        monkeypatch.setenv(SWITCH, switch)
        z, before, after, h, dh, dc = _step(shape, dtype)
        arithmetic = gate_arithmetic(z, before, None if peephole is None else peephole.to(dtype))
        assert type(arithmetic) is kind
        arithmetic.forward(z, before, after, h)
        found.append([z.clone(), after.clone(), h])
        arithmetic.backward(z, before, after, dh, dc)
        found[-1] += [z, dc]
    step = 2**-8 if dtype == torch.bfloat16 else 1e-6  # a unit in the last place of bfloat16; a few of float32
    for native, plain in zip(*found, strict=True):
        torch.testing.assert_close(native.float(), plain.float(), rtol=step, atol=4 * step)


@needs_native
def test_gates_of_any_number() -> None:
    """Far from zero, infinite or no number at all: sigmoid and tanh as they are defined."""
    values = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([0.0, 1e-30, torch.inf, -torch.inf, torch.nan])])
    zeros = torch.zeros(1, 1, len(values))
    z = torch.cat([values.expand(1, 1, -1)] * 4, dim=1).contiguous()
    after, h = torch.empty_like(zeros), torch.empty_like(zeros)
    operators().advance(z, zeros, after, h, None)
    wide = values.double()
    for gate, expected in zip(
        z[0], [wide.sigmoid(), wide.sigmoid(), (2 * wide).sigmoid(), wide.sigmoid()], strict=True
    ):
        torch.testing.assert_close(gate.double(), expected, rtol=3e-7, atol=1e-37, equal_nan=True)
    c = wide.sigmoid() * wide.tanh()
    torch.testing.assert_close(after[0, 0].double(), c, rtol=0, atol=3e-7, equal_nan=True)
    torch.testing.assert_close(h[0, 0].double(), wide.sigmoid() * c.tanh(), rtol=0, atol=3e-7, equal_nan=True)


@needs_native
@pytest.mark.parametrize("rows", [3, 5])
@pytest.mark.parametrize("order", ["channels last", "channels first", "part of a batch first sequence"])
def test_the_way_to_the_points_is_that_of_torch_operations(rows: int, order: str) -> None:
    torch.manual_seed(rows)
    weights, padding = [torch.randn(12, n, rows, 3) for n in (5, 3)], (rows // 2, 1)
    x = {
        "channels last": torch.randn(3, 5, 8, 7).contiguous(memory_format=torch.channels_last),
        "channels first": torch.randn(3, 5, 8, 7),
        "part of a batch first sequence": torch.randn(3, 2, 5, 8, 7)[:, 1],
    }[order]
    h, z = (torch.randn(3, n, 8, 7).contiguous(memory_format=torch.channels_last) for n in (3, 12))
    results = []
    for kind in (NativeWinograd, Winograd):
        winograd = kind(weights, padding, samples=2)
        transformed, d_products = (
            winograd._input_transform(z, [x, h]).clone(),
            winograd._output_transform_gradient(z).clone(),
        )
        rows_of, of_x, of_h = z.clone(), x.contiguous(memory_format=torch.channels_last).clone(), h.clone()
        winograd._output_transform(rows_of, d_products)
        winograd._input_transform_gradient([of_x, of_h], transformed)
        results.append([transformed, d_products, rows_of, of_x, of_h])
    for native, plain in zip(*results, strict=True):
        torch.testing.assert_close(native, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


@needs_native
@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 7), (1, 40, 4, 4), (3, 17, 2, 3, 4), (2, 16, 1, 1), (1, 1, 3, 3), (2, 3, 5)]
)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_frames_are_copied_in_order(shape: tuple[int, ...], source: torch.dtype, target: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape[0], 2, *shape[1:]).to(source)
    x[0, 0, 0] = torch.nan
    for part in (x[:, 0], x[:, 1].transpose(-1, -2).contiguous().transpose(-1, -2), x[:, 1].flip(-1)):
        to = torch.empty(shape, dtype=target).contiguous(memory_format=LAST[len(shape)])
        put_channels_last(to, part)
        torch.testing.assert_close(to, part.to(target), rtol=0, atol=0, equal_nan=True)


@needs_native
@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    """Arrays of many parts, so that every operator shares its work out; one row of gates is larger than a part."""

    def everything() -> list[Tensor]:
        results = []
        for shape in ((3, 48, 40, 24), (1, 24, 3001)):
            z, before, after, h, dh, dc = _step(shape, torch.float32)
            arithmetic = gate_arithmetic(z, before, torch.ones(3, shape[1]))
            arithmetic.forward(z, before, after, h)
            results += [z.clone(), after, h]
            arithmetic.backward(z, before, after, dh, dc)
            results += [z, dc]
        winograd = NativeWinograd([torch.ones(192, 48, 3, 3)], (1, 1), samples=3)
        z, grid, *_ = _step((3, 48, 40, 24), torch.float32)
        transformed, d_products = (
            winograd._input_transform(z, [grid]).clone(),
            winograd._output_transform_gradient(z).clone(),
        )
        winograd._output_transform(z, d_products)
        winograd._input_transform_gradient([grid], transformed)
        frames, x = torch.empty_like(grid), torch.randn(3, 48, 40, 24, generator=torch.Generator().manual_seed(2))
        put_channels_last(frames, x)
        return [*results, transformed, d_products, z, grid, frames]

    torch.set_num_threads(1)
    expected = everything()
    torch.set_num_threads(threads)
    for a, b in zip(everything(), expected, strict=True):
        # where a part ends within a row of gates, its last values go without vectors
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@needs_native
def test_arrays_that_do_not_fit_are_refused() -> None:
    """Whatever is asked, no operator reads or writes beyond an array."""
    z, before, after, h, dh, dc = _step((2, 4, 3, 3), torch.float32)
    points, matrix = torch.empty(6, 2, 1, 3, 4), torch.zeros(6, 6)
    grid = torch.empty(2, 4, 4, 3).contiguous(memory_format=torch.channels_last)
    calls: list[tuple[Any, ...]] = [
        (operators().advance, z[:, :12], before, after, h, None),
        (operators().advance, z.contiguous(), before, after, h, None),
        (operators().advance, z, before.double(), after, h, None),
        (operators().advance, z, before, after, h.bfloat16(), None),
        (operators().advance, z, before, after[:1], h, None),
        (operators().advance, z, before, after, h, torch.zeros(3, 3)),
        (operators().retreat, z, before, after, dh, dc[:, :2], None),
        (operators().retreat, z.half(), before, after, dh.half(), dc, None),
        (operators().to_points, points, grid, matrix[:5], 1, 0),
        (operators().to_points, points, grid, matrix, 1, 1),
        (operators().to_points, points, grid, matrix, 1, -1),
        (operators().to_points, points, grid, matrix, 1, 2**63 - 1),
        (operators().to_points, points, grid, matrix, -1, 0),
        (operators().to_points, points, grid, matrix, 2**62, 0),
        (operators().from_points, grid, points, matrix, 1, 2**63 - 1),
        (operators().to_points, points[:, :1], grid, matrix, 1, 0),
        (operators().to_points, points, grid.contiguous(), matrix, 1, 0),
        (operators().from_points, grid[:, :, :2], points, matrix, 1, 0),
        (operators().from_points, grid, points.double(), matrix, 1, 0),
        (operators().put_channels_last, grid, torch.zeros(2, 4, 3, 4)),
        (operators().put_channels_last, grid.contiguous(), torch.zeros(2, 4, 4, 3)),
        (operators().put_channels_last, grid, torch.zeros(2, 4, 4, 3, dtype=torch.bfloat16)),
    ]
    for call, *arguments in calls:
        with pytest.raises(RuntimeError):
            call(*arguments)


def _everything(layer: ConvLSTM, x: Tensor) -> list[Tensor]:
    """Return outputs, states and all gradients."""
    x = x.clone().requires_grad_()
    output, (h, c) = layer(x)
    loss = output.float().square().sum() + c[0].sum()
    return [output, *h, *c, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@needs_native
@pytest.mark.parametrize("peephole", ["none", "channel"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("low", [False, True])
def test_layers_are_the_same_without_it(dims: int, peephole: Any, low: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(dims)
    layer = ConvLSTM(3, [8, 4], 3, spatial_dims=dims, peephole=peephole, direction="bidirectional")
    x = torch.randn(2, 5, 3, *[8, 6, 4][:dims])
    steps: list[int] = []
    backward = NativeGates.backward
    monkeypatch.setattr(NativeGates, "backward", lambda self, *a: (steps.append(1), backward(self, *a))[1])
    found = []
    for switch in ("1", "0"):
        monkeypatch.setenv(SWITCH, switch)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            found.append(_everything(layer, x))
    assert len(steps) == 5 * 2 * 2
    for native, plain in zip(*found, strict=True):
        scale = float(plain.detach().abs().max())
        assert native.dtype == plain.dtype
        assert float((native - plain).detach().abs().max()) <= (3e-2 if low else 1e-5) * scale


@needs_native
@pytest.mark.parametrize("native", [True, False])
def test_layers_hold_the_contract(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random layers of the common cell with and without the operators, values and gradients."""
    monkeypatch.setenv(SWITCH, str(int(native)))
    made: list[object] = []
    monkeypatch.setattr(torch_gates, "NativeGates", lambda p: (made.append(p), NativeGates(p))[1])
    drawn = (common_case(seed) for seed in count(90_000))
    for case in islice((case for case in drawn if case.mask is None and case.arrays["x"].shape[1]), 40):
        found = compare(case, run, "float32")
        assert not found.misses("float32"), found.label
    assert bool(made) == native


@needs_native
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("form", ["as it came out", "channels first", "expanded", "without batch"])
@pytest.mark.parametrize("hidden", [1, 4])
def test_a_state_that_was_given_is_read_alone(
    hidden: int, form: str, dims: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients the state goes in without a copy: it stays as it is, and what comes out is the caller's own."""
    monkeypatch.setenv(SWITCH, str(int(native)))
    torch.manual_seed(dims)
    layer, size = ConvLSTM(2, hidden, 3, spatial_dims=dims), [4, 3, 5][:dims]
    x, one = torch.randn(2, 3, 2, *size), torch.randn(1, hidden, *size)
    with torch.no_grad():
        _, ((h,), (c,)) = layer(x)
        if form == "channels first":
            h, c = h.contiguous(), c.contiguous()
        elif form == "expanded":
            h, c = one.expand(2, *one.shape[1:]), (one + 1).expand(2, *one.shape[1:])
        elif form == "without batch":
            x, h, c = x[0], h[0], c[0]
        before = [h.clone(), c.clone()]
        output, ((h_n,), (c_n,)) = layer(x, ((h,), (c,)))
        assert torch.equal(h, before[0])
        assert torch.equal(c, before[1])
        kept = output.clone()
        h_n.add_(1)
        c_n.add_(1)
        assert torch.equal(output, kept)
        if form != "without batch":  # a state without its batch axis is a view
            h_n.detach_()
            c_n.detach_()
    wanted, ((h_w,), (c_w,)) = layer(x, ((before[0],), (before[1],)))  # with gradients: the states are kept
    for found, expected in ((output, wanted), (h_n - 1, h_w), (c_n - 1, c_w)):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


@needs_native
def test_second_derivatives_go_through_frames_in_low_precision() -> None:
    torch.manual_seed(0)
    layer, x = ConvLSTM(3, 4, 3), torch.randn(2, 3, 3, 6, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x)
    (slope,) = torch.autograd.grad(output.float().square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), x)
    wide, y = layer.double(), x.detach().double().requires_grad_()
    (slope_wide,) = torch.autograd.grad(wide(y)[0].square().sum(), y, create_graph=True)
    (expected,) = torch.autograd.grad(slope_wide.square().sum(), y)
    assert slope.dtype == second.dtype == torch.float32
    assert float((second - expected).abs().max()) <= 5e-2 * float(expected.abs().max())


@needs_native
@pytest.mark.parametrize("low", [False, True])
def test_gradients_that_are_one_number_spread_out(low: bool) -> None:
    """`output.sum().backward()` gives a gradient whose strides are zero."""
    torch.manual_seed(0)
    layer, x = ConvLSTM(3, 4, 3), torch.randn(2, 3, 3, 6, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        spread = torch.autograd.grad(layer(x)[0].float().sum(), list(layer.parameters()))
        output = layer(x)[0].float()
    dense = torch.autograd.grad(output, list(layer.parameters()), torch.ones_like(output).contiguous())
    for a, b in zip(spread, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@needs_native
def test_a_counter_may_look_on_in_one_direction_alone() -> None:
    """What the forward pass keeps is the same with the operators and without, so that each may go back alone."""
    torch.manual_seed(0)
    layer, x = ConvLSTM(2, 4, 3), torch.randn(2, 3, 2, 5, 6)
    expected = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    with FlopCounterMode(display=False):
        loss = layer(x)[0].square().sum()
    found = torch.autograd.grad(loss, list(layer.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@needs_native
def test_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_native(torch.ones(1))
    assert not is_native(torch.ones(1).double())
    assert not is_native(torch.ones(1).half())
    assert not is_native(torch.ones(1, device="meta"))
    with FlopCounterMode(display=False):
        assert not is_native(torch.ones(1))
    monkeypatch.setenv(SWITCH, "0")
    assert not is_native(torch.ones(1))


@needs_native
def test_a_switch_that_says_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    with pytest.raises(ConfigError, match=r"CONVLSTM_NATIVE: expected 0 or 1, got 'off'"):
        is_native(torch.ones(1))


@needs_native
@pytest.mark.parametrize("fault", ["another interface", "cannot be loaded", "no library"])
def test_a_package_that_does_not_fit_is_left_aside(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("undefined symbol")

    if fault == "cannot be loaded":
        monkeypatch.setattr(torch_native, "import_module", broken)
    elif fault == "no library":
        monkeypatch.delitem(sys.modules, "convlstm_native", raising=False)
        monkeypatch.setattr(Path, "glob", lambda self, pattern: [])
    else:
        monkeypatch.setattr(torch_native, "INTERFACE", torch_native.INTERFACE + 1)
    is_installed.cache_clear()
    try:
        assert not is_native(torch.ones(1))
    finally:
        is_installed.cache_clear()


def library() -> Path:
    """The compiled library of the installed package."""
    (path,) = Path(sys.modules["convlstm_native"].__file__).parent.glob("_kernels*.so")
    return path


@needs_native
@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="there is no nm for ELF files")
def test_library_calls_the_stable_interface_of_pytorch_and_nothing_of_python() -> None:
    done = subprocess.run(["nm", "-D", "--undefined-only", library()], capture_output=True, text=True, check=True)
    names = [line.split()[-1].split("@")[0] for line in done.stdout.splitlines()]
    of_torch = [name for name in names if re.search("torch|c10|at6", name)]
    assert "torch_parallel_for" in of_torch
    assert [name for name in of_torch if not re.match("(aoti_)?torch_", name)] == []
    assert [name for name in names if re.match("_?Py", name)] == []


@needs_native
@pytest.mark.skipif(shutil.which("objdump") is None or sys.platform != "linux", reason="there is no objdump for ELF")
def test_libraries_of_pytorch_stay_outside_the_wheel() -> None:
    done = subprocess.run(["objdump", "-p", library()], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED +(\S*(?:torch|c10)\S*)", done.stdout))
    options = tomllib.loads((ROOT / "native" / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    excluded = set(re.findall(r"--exclude (\S+)", options["linux"]["repair-wheel-command"]))
    assert "libtorch_cpu.so" in needed
    assert needed <= excluded
