"""The implementation for accelerators: against the reference on a CPU, and without a host on tensors without values."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.adapters.torch import run
from convlstm.conformance.compare import compare
from convlstm.conformance.narrow_layers import SMOOTH
from convlstm.conformance.random_layers import COMMON, common_case, random_case
from convlstm.engine.torch import accelerator, accelerator_gates
from convlstm.engine.torch import buffers as torch_buffers
from convlstm.engine.torch import fused as torch_fused
from convlstm.errors import ConfigError
from convlstm.torch import ConvLSTM, Forecaster

CHOICES = [(), ("x",), ("weight_ih", "bias"), ("weight_hh",), ("h", "c"), ("x", "weight", "h", "c", "peephole")]
aten = torch.ops.aten


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Serve arrays on a CPU; return for each call whether it keeps the activations."""
    calls: list[bool] = []
    original = accelerator.run

    def run_and_count(*arguments: Any, save: bool) -> Any:
        calls.append(save)
        return original(*arguments, save=save)

    monkeypatch.setattr(accelerator, "serves", lambda like: True)
    monkeypatch.setattr(accelerator, "run", run_and_count)
    return calls


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(60))
def test_random_standard_layers_are_the_reference(seed: int, dtype: str, taken: list[bool]) -> None:
    case = common_case(seed)
    found = compare(case, run, dtype)
    assert not found.misses(dtype), found
    # masked steps take the generic implementation, and so does an empty batch or sequence
    assert bool(taken) == (case.mask is None and 0 not in case.arrays["x"].shape)


@pytest.mark.parametrize("seed", range(60, 76))
def test_bfloat16_is_the_reference_within_rounding(seed: int, taken: list[bool]) -> None:
    # layers of any shape but 3-D: oneDNN is wrong for frames of depth 1 on processors with AMX, which this
    # implementation does not avoid, as no CPU uses it
    options = COMMON | SMOOTH | {"peephole": ("none", "channel")[seed % 2], "spatial_dims": 1 + seed // 2 % 2}
    found = compare(random_case(seed, **options), run, "bfloat16")
    assert found.value <= 5e-2, found.label
    assert found.derivative <= 1e-1, found.label


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_inputs_convolved_in_chunks_are_the_reference(
    seed: int, dims: int, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "_MAX_KEPT_VALUES", 1)
    monkeypatch.setattr(accelerator, "_MAX_CHUNK_BYTES", 1)
    found = compare(
        random_case(seed, spatial_dims=dims, direction=("forward", "bidirectional")[seed % 2], **COMMON), run, "float64"
    )
    assert not found.misses("float64"), found


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_inference_equals_training(
    limit: int, reverse: bool, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "_MAX_CHUNK_BYTES", limit)
    layer = ConvLSTM(2, [3, 4], 3, peephole="channel", bidirectional=reverse).double()
    x = torch.randn(2, 5, 2, 6, 7, dtype=torch.float64)
    state = layer(torch.randn_like(x))[1]
    trained, (h, c) = layer(x, state)
    with torch.no_grad():
        output, (h_n, c_n) = layer(x, state)
    for a, b in zip((output, *h_n, *c_n), (trained, *h, *c), strict=True):
        torch.testing.assert_close(a, b.detach())
    assert taken.count(False) == 2 * (1 + reverse)


def derivatives(layer: ConvLSTM, chosen: tuple[str, ...], x: Tensor, state: Any) -> list[Tensor]:
    inputs = {"x": x, "h": state[0][0], "c": state[1][0], **dict(layer.named_parameters())}
    leaves = [t.requires_grad_(name.startswith(chosen)) for name, t in inputs.items()]
    output, (h, c) = layer(x, state)
    loss = output.pow(2).sum() + h[0].sum() + c[0].pow(2).sum()
    return list(torch.autograd.grad(loss, [t for t in leaves if t.requires_grad]))


@pytest.mark.parametrize("chosen", CHOICES[1:], ids=str)
@pytest.mark.parametrize("steps", [1, 4])
def test_every_choice_of_gradients_equals_the_implementation_for_a_cpu(
    steps: int, chosen: tuple[str, ...], taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = ConvLSTM(2, 3, 3, peephole="channel").double()
    x = torch.randn(2, steps, 2, 5, 6, dtype=torch.float64)
    state = tuple((torch.randn(2, 3, 5, 6, dtype=torch.float64),) for _ in range(2))
    found = derivatives(layer, chosen, x, state)
    assert taken == [True]
    monkeypatch.setattr(accelerator, "serves", lambda like: False)
    for a, b in zip(found, derivatives(layer, chosen, x, state), strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_final_cell_state_enters_the_loss(taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = ConvLSTM(2, 3, 3, peephole="channel").double(), torch.randn(2, 4, 2, 5, 6, dtype=torch.float64)

    def found() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x)[1][1][0].pow(2).sum(), list(layer.parameters()))

    first = found()
    assert taken
    monkeypatch.setattr(torch_fused, "serves", lambda *_: False)
    for a, b in zip(first, found(), strict=True):
        torch.testing.assert_close(a, b)


def test_second_derivatives_and_a_second_backward_pass(taken: list[bool]) -> None:
    layer, x = ConvLSTM(1, 2, 3).double(), torch.randn(1, 3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))
    loss = layer(x)[0].pow(2).sum()
    first = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, list(layer.parameters())), strict=True):
        torch.testing.assert_close(a, b)
    assert taken


def test_the_gradient_of_the_caller_is_not_overwritten(taken: list[bool]) -> None:
    layer, x = ConvLSTM(1, 2, 3), torch.randn(2, 3, 1, 4, 4)
    output, (h, c) = layer(x)
    given = [torch.randn_like(output), torch.randn_like(h[0]), torch.randn_like(c[0])]
    before = [dy.clone() for dy in given]
    torch.autograd.backward([output, h[0], c[0]], given)
    assert taken
    for dy, copy in zip(given, before, strict=True):
        assert torch.equal(dy, copy)


def test_outputs_changed_in_place_leave_the_gradients_right(taken: list[bool]) -> None:
    layer, x = ConvLSTM(1, 2, 3, peephole="channel").double(), torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    expected = torch.autograd.grad((2 * layer(x)[0]).pow(2).sum(), list(layer.parameters()))
    output, _ = layer(x)
    output *= 2
    for a, b in zip(torch.autograd.grad(output.pow(2).sum(), list(layer.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert taken == [True, True]


class Watch(TorchDispatchMode):
    """Counts convolutions, and fails where an operation needs a value on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"forward": 0, "backward": 0}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default), function
        result = function(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            assert not isinstance(value, Tensor) or value.device.type == "meta" or value.ndim == 0, function
        self.counts["forward"] += function is aten.convolution.default
        self.counts["backward"] += function is aten.convolution_backward.default
        return result


@pytest.fixture
def _no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_buffers, "_MIN_POOLED_BYTES", 0)
    monkeypatch.setattr(torch_buffers._Pool, "take", lambda *_: pytest.fail("memory from the pool"))


@pytest.mark.usefixtures("_no_pool")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"peephole": "channel", "stride": 2}], ids=str)
def test_a_training_step_on_tensors_without_values(options: dict[str, Any], dtype: torch.dtype) -> None:
    """On the device `meta` any read of a value is an error, so that no step of this implementation waits for one."""
    layer = ConvLSTM(3, 8, 3, device="meta", dtype=dtype, **options)
    x = torch.empty(2, 5, 3, 8, 8, device="meta", dtype=dtype, requires_grad=True)
    with Watch() as watch:
        output, (h, c) = layer(x)
        ((output.float() ** 2).mean() + h[0].sum() + c[0].sum()).backward()
    directions = 2 if "bidirectional" in options else 1
    # W_ih ∗ x once, W_hh ∗ h and its data gradient once per step after the first, each weight gradient once
    assert watch.counts == {"forward": directions * (1 + 4 + 4), "backward": directions * 2}
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in layer.parameters())


@pytest.mark.usefixtures("_no_pool")
def test_a_forecast_on_tensors_without_values() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[8, 8], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2), device="meta")
    with torch.no_grad(), Watch():
        assert model(torch.empty(2, 4, 1, 8, 8, device="meta"), 3).shape == (2, 3, 1, 8, 8)


@pytest.mark.skipif(shutil.which("c++") is None, reason="a fake CUDA device needs a C++ compiler")
def test_a_training_step_on_fake_cuda_tensors(tmp_path: Path) -> None:
    """In another process, because it registers a CUDA device that does nothing."""
    script = Path(__file__).with_name("fake_cuda.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9, done.stdout


def test_wrong_value_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(accelerator_gates.SWITCH, "no")
    with pytest.raises(ConfigError, match=accelerator_gates.SWITCH):
        accelerator_gates.is_enabled(accelerator_gates.SWITCH, "the kernels of Triton")


def test_triton_is_left_where_it_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device) -> None:
        raise RuntimeError("no C compiler")

    class Kernels:
        compile_for = staticmethod(fails)

    monkeypatch.setattr(accelerator_gates, "_triton_gates", Kernels)
    assert not accelerator_gates._can_compile(torch.device("cuda", 0))
    Kernels.compile_for = staticmethod(lambda device: None)
    assert accelerator_gates._can_compile(torch.device("cuda", 0))


def test_triton_is_not_imported_after_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """That import ends the process: "LLVM ERROR: inconsistency in registered CommandLine options"."""
    monkeypatch.setattr(accelerator_gates, "find_spec", lambda name: object())
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    assert accelerator_gates._is_importable()
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    assert not accelerator_gates._is_importable()
    monkeypatch.setitem(sys.modules, "triton", object())
    assert accelerator_gates._is_importable()


def test_nothing_is_compiled_while_a_cuda_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator_gates, "_COMPILES", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(accelerator_gates, "_can_compile", lambda device: pytest.fail("compiled during a capture"))
    assert not accelerator_gates._compiles(0)
    assert accelerator_gates._COMPILES == {}  # the next call outside a capture decides
