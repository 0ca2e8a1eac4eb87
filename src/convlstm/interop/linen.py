"""Read and write `flax.linen.ConvLSTMCell`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read
from convlstm.interop.writing import write
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec


def _place(spec: ConvLSTMSpec, index: int, direction: str) -> str:
    layer = f"layers_{index}/" if spec.depth > 1 else ""
    side = {"forward": "forward_rnn/", "reverse": "backward_rnn/"}[direction] if len(spec.directions) > 1 else ""
    return f"params/{layer}{side}cell/"


def _constructor_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `nn.RNN`, or of the `nn.Bidirectional` around two."""
    if "merge" in options:
        return {"merge_fn of nn.Bidirectional": options["merge"]}
    return {"reverse": True, "keep_order": True} if options["direction"] == "reverse" else {}


LINEN = Layout(
    name="linen",
    source="flax.linen.ConvLSTMCell",
    gates=("i", "g", "f", "o"),
    axes=(-1, -2),
    kernels=("ih.kernel", "hh.kernel"),
    biases=("ih.bias", "hh.bias"),
    forget_offset=1.0,
    place=_place,
    separator="/",
    two_ways=True,
    choices={"direction": "forward", "merge": "concat"},
    constructor_arguments=_constructor_arguments,
    facts=(
        "Kernels are (*kernel, in, 4 · features) there, (4, hidden, in, *kernel) here.",
        "The carry is (c, h) there, (h, c) here.",
        "strides other than 1 and padding VALID also act on the hidden state there and fail: padding is 'same' here.",
    ),
)
"""Parameters of the cell, alone or within `nn.RNN`, `nn.Bidirectional` and `nn.Sequential`."""


def read_linen(params: Mapping[str, Any], *, layers: Sequence[str] = (), **options: Any) -> Converted:
    """Read the parameters of Flax linen's cells.

    Args:
        params: The tree of parameters, or flat with paths such as `params/cell/ih/kernel`.
        layers: Parts of paths that name the layers in order; none reads the only stack.
        **options: `direction="reverse"` for `nn.RNN(reverse=True, keep_order=True)`, and the `merge` of
            `nn.Bidirectional`.

    Returns:
        Spec, canonical weights and notes; the two biases and the constant 1 of the forget gate are one bias.

    Raises:
        SpecError: for an option the cell does not have.
        WeightsError: if there is no such cell, several that are not a stack, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> cell = {"ih": {"kernel": np.zeros((3, 3, 1, 32))}, "hh": {"kernel": np.zeros((3, 3, 8, 32))}}
        >>> read_linen({"params": cell}).weights["layers.0.forward.bias"][:, 0]
        array([0., 1., 0., 0.])
    """
    return read(LINEN, params, layers=layers, **options)


def write_linen(spec: Spec, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return a layer stack as the flat parameters of `nn.RNN(nn.ConvLSTMCell(...))`, one per layer.

    The names of several layers are those of `nn.Sequential`, and of two directions those of `nn.Bidirectional`.

    Args:
        spec: The stack.
        weights: Its canonical arrays.

    Returns:
        Arrays by path, for `flax.traverse_util.unflatten_dict(arrays, sep="/")`; a layer without bias gets two
        biases that cancel the constant 1 of the forget gate.

    Raises:
        SpecError: naming the option that the cell cannot hold.
        WeightsError: if weights and spec differ.

    Example:
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> sorted(write_linen(spec, initialise(spec, seed=0)))[-1]
        'params/cell/ih/kernel'
    """
    return write(LINEN, spec, weights)
