"""A block in which the weights of a module do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from convlstm.engine.torch import fixed_weights as engine
from convlstm.errors import SpecError, WeightsError
from convlstm.torch.module import SpecModule


@contextmanager
def fixed_weights(module: nn.Module) -> Iterator[None]:
    """Keep reordered kernels from call to call, in a block in which the weights do not change.

    oneDNN computes a convolution with a kernel in a layout of its own. A call over many steps reorders each kernel
    once, and a stream of single steps reorders them at every call. In this block a kernel is reordered once, which
    takes as much memory again as the kernel, for each size of the input. The values are those outside the block within
    rounding: large kernels may be computed by Winograd's convolution. It has an effect on a CPU, in two spatial
    dimensions, without autocast.

    A weight that is changed in place, by an optimiser or by `load_state_dict`, is reordered again. PyTorch does not
    count a write through `weight.data` or a NumPy view, so calls after such a write still use the earlier kernel. The
    end of the block raises an error, unless the write was undone or followed by a change that PyTorch counts.

    Args:
        module: A layer, a cell, a forecaster, or a module that contains them.

    Yields:
        Nothing.

    Raises:
        SpecError: if the module contains no layer, or weights that were made in `torch.inference_mode`.
        WeightsError: at the end of the block, if a weight was changed through `weight.data`.

    Example:
        >>> import torch
        >>> from convlstm.torch import ConvLSTMCell
        >>> cell, state = ConvLSTMCell(1, 8, kernel_size=3), None
        >>> with torch.inference_mode(), fixed_weights(cell):
        ...     for frame in torch.zeros(5, 1, 1, 16, 16):
        ...         h, c = state = cell(frame, state)
        >>> tuple(h.shape)
        (1, 8, 16, 16)
    """
    if not any(isinstance(part, SpecModule) for part in module.modules()):
        raise SpecError(
            "module",
            expected="a module with a ConvLSTM",
            received=type(module).__name__,
            hint="Pass the layer, or a module that contains it.",
        )
    names, weights = [], []
    for name, weight in module.named_parameters():
        if weight.is_inference():
            raise SpecError(
                "module",
                expected="weights made outside `torch.inference_mode`",
                received=f"{name} made inside it",
                hint="Build the module, and load its weights, before `torch.inference_mode`.",
            )
        names.append(name)
        weights.append(weight)
    engine.hold(weights)
    changed: list[int] = []
    try:
        yield
    finally:
        changed = engine.release(weights)
    if changed:
        raise WeightsError(
            names[changed[0]],
            expected="no write through `.data` inside `fixed_weights`",
            received="other values than those of the calls",
            hint="Change weights outside the block, or in place under `torch.no_grad()`.",
        )
