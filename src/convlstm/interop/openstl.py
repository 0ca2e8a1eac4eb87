"""Read the ConvLSTM model of OpenSTL, without the layers that it never calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convlstm.errors import SpecError, WeightsError
from convlstm.interop.finding import flatten
from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read
from convlstm.spec import parsing
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import check_weights

OPENSTL = Layout(
    name="openstl",
    source="OpenSTL's ConvLSTM",
    gates=("i", "f", "g", "o"),
    axes=(0, 1),
    kernels=("conv_x.0.weight", "conv_h.0.weight"),
    dead=("conv_o.0.weight", "conv_last.weight"),
    within=r"(.*\.)?cell_list\.\d+",
    one_object=r".*cell_list\.\d+",
    ranks=(2,),
    odd_kernels=True,
    facts=(
        "_forget_bias = 1 is set there and never used: the gates have no bias there, and none here.",
        "A frame's patch is folded as (dy, dx, channel) there, (channel, dy, dx) here; the weights are reordered.",
        "Frames are folded into patches before the model there, within it here.",
    ),
)
"""`state_dict` with `cell_list.0.conv_x.0.weight` and `conv_last.weight`."""

_HEAD = "conv_last.weight"


def read_openstl(
    state_dict: Mapping[str, Any], *, patch_size: int | None = None, layers: Sequence[str] = ()
) -> Converted:
    """Read the `state_dict` of the ConvLSTM of OpenSTL as a forecaster with feedback.

    Args:
        state_dict: Arrays, or tensors on the CPU, by name.
        patch_size: Side of its patches, `patch_size` of its configuration (4 for Moving MNIST, 2 for KTH).
        layers: Part of the path of the model if the file has several.

    Returns:
        A ForecasterSpec with `rollout="feedback"`, canonical weights and notes.

    Raises:
        SpecError: without patch_size, or one that does not fit the channels.
        WeightsError: if there is no such model, or it was built with layer_norm.

    Example:
        >>> import numpy as np
        >>> arrays = {f"cell_list.0.conv_{p}.0.weight": np.zeros((32, n, 5, 5)) for p, n in (("x", 16), ("h", 8))}
        >>> read_openstl(arrays | {"conv_last.weight": np.zeros((16, 8, 1, 1))}, patch_size=4).spec.rollout
        'feedback'
    """
    flat = flatten(state_dict)
    stack = read(OPENSTL, flat, layers=layers)
    assert isinstance(stack.spec, ConvLSTMSpec)
    spec = _forecaster(stack.spec, patch_size)
    key = stack.notes.layers[0].rpartition("cell_list.")[0] + _HEAD
    if key not in flat:
        raise WeightsError(
            key, expected="the output convolution and the cells", received="none", hint="Pass the whole state_dict."
        )
    weights = {f"encoder.{name}": array for name, array in stack.weights.items()}
    first, order = "encoder.layers.0.forward.weight_ih", _order(spec)
    # a head of another shape is not changed; the check names it
    head = flat[key][order] if len(flat[key]) == len(order) else flat[key]
    weights |= {first: np.ascontiguousarray(weights[first][:, :, order]), "head.weight": np.ascontiguousarray(head)}
    check_weights(spec, weights)
    left = tuple(name for name in stack.notes.left_out if name != key)
    return Converted(spec, dict(sorted(weights.items())), replace(stack.notes, left_out=left))


def _forecaster(stack: ConvLSTMSpec, patch_size: int | None) -> ForecasterSpec:
    channels = stack.in_channels
    if patch_size is None:
        raise SpecError(
            "patch_size",
            expected="the side of the patches in training, which the arrays do not show",
            received="none",
            hint="Pass the `patch_size` of its configuration (4 for Moving MNIST, 2 for KTH).",
        )
    patch_size = parsing.integer("patch_size", patch_size, 1)
    if channels % patch_size**2:
        raise SpecError(
            "patch_size",
            expected=f"a side whose square divides the model's {channels} input channels",
            received=patch_size,
            hint="Pass the `patch_size` of the model's configuration.",
        )
    frame_channels = channels // patch_size**2
    return ForecasterSpec(
        encoder=stack, frame_channels=frame_channels, patch_size=patch_size, rollout="feedback", head_bias=False
    )


def _order(spec: ForecasterSpec) -> Array:
    """Return the index in OpenSTL's order (dy, dx, channel) of each patched channel (channel, dy, dx)."""
    theirs = np.arange(spec.patch_channels).reshape(spec.patch_size**2, spec.frame_channels)
    return theirs.T.reshape(-1)
