"""Run forward and backward pass on fake CUDA tensors, in a build of PyTorch for a CPU too: `fake_cuda.py FOLDER`.

Fake tensors have a shape and a device but no values, so that reading one fails. A build for a CPU lacks the device
guard, and a guard that does nothing takes its place. Without a device, autograd's engine does not start: the node of
the implementation is called directly. The folder receives the compiled guard.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from convlstm.engine.torch import accelerator, accelerator_gates, buffers, fused
from convlstm.engine.torch.recurrence import generic_sequence
from convlstm.spec.options import ConvLSTMSpec

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""

CASES = [
    (torch.float32, "none", False, False),
    (torch.float32, "channel", True, True),
    (torch.bfloat16, "none", True, False),
    (torch.bfloat16, "channel", False, True),
]
"""Type, peephole, direction, and whether there is an initial state."""


class OnDevice(TorchDispatchMode):
    """Fails where a tensor is not on the device, as after a copy to the host."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            assert not isinstance(value, Tensor) or value.device.type in ("cuda", "meta"), (function, value.device)
        return result


class Launches:
    """Takes the place of a kernel of Triton: its arguments must be numbers, and fake tensors on the device."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        assert all(isinstance(n, int) for n in grid)

        def launch(*arrays: Tensor, **numbers: int | bool) -> None:
            assert all(array.device.type == "cuda" for array in arrays)
            assert all(isinstance(number, int) for number in numbers.values())
            self.count += 1

        return launch


def register_guard(folder: Path) -> None:
    """Compile and load the guard, if this build of PyTorch has none."""
    if torch.version.cuda or torch.version.hip:
        return
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    home = Path(torch.__file__).parent
    paths = [f"-I{home / 'include'}", f"-L{home / 'lib'}", "-lc10"]
    command = ["c++", "-std=c++20", "-O0", "-shared", "-fPIC", str(source), *paths, "-o", str(library)]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library))


def check(dtype: torch.dtype, peephole: str, reverse: bool, has_state: bool) -> None:
    """Run a layer forward and backward, and forward in inference."""
    layer = ConvLSTMSpec(in_channels=3, hidden_channels=8, kernel_size=3, peephole=peephole).layers[0]
    x = torch.empty(5, 2, 3, 8, 8, device="cuda", dtype=dtype, requires_grad=True)
    sizes = {"weight_ih": (32, 3, 3, 3), "bias": (32,), "weight_hh": (32, 8, 3, 3), "peephole": (3, 8)}
    if peephole == "none":
        del sizes["peephole"]
    weights = {n: torch.empty(s, device="cuda", dtype=dtype, requires_grad=True) for n, s in sizes.items()}
    shape, state = (2, 8, 8, 8), None
    if has_state:
        state = tuple(torch.empty(shape, device="cuda", dtype=t, requires_grad=True) for t in (dtype, torch.float32))
    arguments = {"steps": 5, "reverse": reverse, "generic": generic_sequence}
    with OnDevice():
        outputs, (h, c) = fused.sequence(layer, weights, x, state, shape, **arguments)
        with torch.no_grad():
            gradients = outputs.grad_fn.apply(torch.empty_like(outputs), torch.empty_like(h), torch.empty_like(c))
            fused.sequence(layer, weights, x, state, shape, **arguments)
    wanted = [None, None, x, *(state or (None, None)), *(weights.get(name) for name in fused._SLOTS)]
    for array, gradient in zip(wanted, gradients, strict=True):
        assert (gradient is None) == (array is None)
        assert array is None or (gradient.shape == array.shape and gradient.device == array.device)


def check_launches(case: tuple[Any, ...]) -> None:
    """Check a case with the launches of Triton's kernels: they may use shapes only."""
    if "triton" not in sys.modules and find_spec("triton") is None:
        language = SimpleNamespace(constexpr=int, tensor=Tensor)
        module = SimpleNamespace(jit=lambda function: function, cdiv=lambda a, b: -(-a // b), language=language)
        sys.modules |= {"triton": module, "triton.language": language}
    kernels = import_module("convlstm.engine.torch.triton_gates")
    forward, backward = Launches(), Launches()
    with (
        mock.patch.multiple(kernels, _forward=forward, _backward=backward),
        mock.patch.object(accelerator_gates, "triton_serves", return_value=True),
        mock.patch.object(accelerator, "on_device", return_value=nullcontext()),
    ):
        check(*case)
    assert (forward.count, backward.count) == (10, 5)  # one per step, of two forward passes and a backward pass


def main() -> None:
    """Check each form with the operations of PyTorch and with the launches of Triton."""
    register_guard(Path(sys.argv[1]))
    buffers._MIN_POOLED_BYTES = 0
    pool = mock.patch.object(buffers._Pool, "take", side_effect=AssertionError("memory from the pool"))
    with pool, FakeTensorMode(allow_non_fake_inputs=False):
        try:
            torch.ones((), device="cuda").item()
        except RuntimeError:
            sys.stdout.write("checked that no value can be read\n")
        for case in CASES:
            check(*case)
            sys.stdout.write(f"checked {case}\n")
            check_launches(case)
            sys.stdout.write(f"checked the launches of {case}\n")


if __name__ == "__main__":
    main()
