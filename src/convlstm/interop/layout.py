"""The layout of the arrays of a foreign ConvLSTM, and the result of reading one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convlstm.spec.stack import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec

Place = Callable[[ConvLSTMSpec, int, str], str]
"""From a spec, a layer's index and its direction to the path of that layer's arrays in a foreign file."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The array layout of one kind of foreign layer, and its differences from this package.

    Args:
        name: Name in `convlstm convert --from`.
        source: Name of the foreign layer.
        gates: Order of the gates on their common axis.
        axes: Axes of a kernel: gate and hidden channel, and input channel.
        kernels: Names of W_ih and W_hh within a layer, or of the one kernel over [x; h].
        biases: Names of the biases, whose sum the foreign layer uses.
        forget_offset: Constant that the foreign layer adds to the forget gate and does not store.
        dead: Names of arrays that the foreign layer never uses.
        own_name: Function from a dotted name in a file to the name in the foreign layer.
        within: Pattern of the paths of such layers.
        place: Path of a layer when it is written; None for a layout that is only read.
        separator: Separator of the parts of a written path.
        one_object: Whether one foreign object is a whole stack, without other layers in between.
        two_ways: Whether it can be bidirectional, with the paths `forward…` and `backward…`.
        ranks: Supported numbers of spatial axes.
        odd_kernels: Whether it supports odd kernels only.
        choices: Options of `ConvLSTMSpec` that its arrays do not show, with the defaults of the foreign layer.
        own_words: Function from values of `choices` to the arguments of the foreign constructor.
        facts: Further differences, as sentences.
    """

    name: str
    source: str
    gates: tuple[str, str, str, str]
    axes: tuple[int, int]
    kernels: tuple[str, ...]
    biases: tuple[str, ...] = ()
    forget_offset: float = 0.0
    dead: tuple[str, ...] = ()
    own_name: Callable[[str], str] = str
    within: str = r".*"
    place: Place | None = None
    separator: str = "."
    one_object: bool = False
    two_ways: bool = False
    ranks: tuple[int, ...] = (1, 2, 3)
    odd_kernels: bool = False
    choices: Mapping[str, Any] = field(default_factory=dict)
    own_words: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notes:
    """Notes on a converted model.

    Args:
        layers: Paths of its layers, first to last.
        differences: Differences of the foreign layer, as sentences.
        assumed: Assumed values of options that the arrays do not show.
        left_out: Names of arrays that were not read.
    """

    layers: tuple[str, ...]
    differences: tuple[str, ...]
    assumed: Mapping[str, Any]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """A foreign model, converted to this package.

    Args:
        spec: Its options.
        weights: Canonical arrays by key.
        notes: Notes on the conversion.
    """

    spec: Spec
    weights: dict[str, Array]
    notes: Notes
