"""The layout of the arrays of a foreign ConvLSTM, and the result of reading one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec

ANY_PATH = r".*"
"""Pattern of the paths of a layout whose layers may be anywhere."""

Place = Callable[[ConvLSTMSpec, int, str], str]
"""From a spec, a layer's index and its direction to the path of that layer's arrays in a foreign file."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The array layout of one kind of foreign layer, and its differences from this package."""

    name: str  # in `convlstm convert --from`
    source: str  # name of the foreign layer
    gates: tuple[str, str, str, str]  # order on their common axis
    axes: tuple[int, int]  # of a kernel: gate and hidden channel, and input channel
    kernels: tuple[str, ...]  # names of W_ih and W_hh within a layer, or of the one kernel over [x; h]
    biases: tuple[str, ...] = ()  # whose sum the foreign layer uses
    gate_names: tuple[str, ...] = ()  # in the order of `gates`, for names with `{}`: one array per gate
    peepholes: tuple[str, ...] = ()  # names of the peepholes of i, f and o, each (1, hidden, *grid)
    norm_scale: str = ""  # name of the scale of a group normalisation between kernel and bias
    norm_channels: int = 0  # channels of one of its groups
    norm_bias: str = ""  # name of a bias before that normalisation, which the reader of the layout converts
    forget_offset: float = 0.0  # added to the forget gate by the foreign layer, and not stored
    dead: tuple[str, ...] = ()  # names of arrays that the foreign layer never uses
    layer_name: Callable[[str], str] = str  # from a dotted name in a file to the name in the foreign layer
    within: str = ANY_PATH  # pattern of the paths of such layers
    place: Place | None = None  # None for a layout that is only read
    separator: str = "."  # of the parts of a written path
    one_object: str | None = None  # pattern of the paths of one stack, which has no other layers in between
    two_ways: bool = False  # whether it can be bidirectional, with the paths `forward…` and `backward…`
    ranks: tuple[int, ...] = (1, 2, 3)  # supported numbers of spatial axes
    odd_kernels: bool = False  # whether it supports odd kernels only
    choices: Mapping[str, Any] = field(default_factory=dict)  # defaults of options that its arrays do not show
    constructor_arguments: Callable[[Mapping[str, Any]], dict[str, Any]] = dict  # from `choices`
    facts: tuple[str, ...] = ()  # further differences, as sentences

    def parts(self, name: str) -> tuple[str, ...]:
        """Return the names of the arrays behind one name above: itself, or one per gate."""
        return tuple(name.format(gate) for gate in self.gate_names) if "{}" in name else (name,)

    @property
    def known(self) -> tuple[str, ...]:
        """The names of all arrays of a layer."""
        norm = tuple(name for name in (self.norm_scale, self.norm_bias) if name)
        names = (*self.kernels, *self.biases, *self.peepholes, *norm, *self.dead)
        return tuple(part for name in names for part in self.parts(name))


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
