"""How a foreign ConvLSTM keeps its arrays, as data; what was read of one, as a value."""

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
    """How one kind of foreign layer keeps its arrays, and what it computes otherwise than this package.

    Args:
        name: As `convlstm convert --from` takes it.
        source: The layer's own name.
        gates: Order of the gates on their common axis.
        axes: Axes of a kernel that hold gate and hidden channel, and input channel.
        kernels: Names of W_ih and W_hh within a layer, or of the one kernel over [x; h].
        biases: Names of the biases, which the foreign layer adds up.
        forget_offset: Added to the forget gate at every call there, and stored nowhere.
        dead: Names of arrays that the foreign layer holds and never uses.
        own_name: From a dotted name in a file to the foreign layer's own name, where files use another.
        within: Pattern of the paths at which such a layer may stand.
        place: Path of a layer when it is written; None for a layout that is only read.
        separator: Between the parts of a written path.
        one_object: Whether one foreign object holds a whole stack, so that what else a file holds is not between.
        two_ways: Whether it runs bidirectionally, as `forward…` and `backward…` side by side.
        ranks: Numbers of spatial axes it can have.
        odd_kernels: Whether even kernels cannot run there.
        choices: Options of `ConvLSTMSpec` that its constructor takes and its arrays do not show, with its defaults.
        own_words: From values of `choices`, one per layer where layers differ, to the foreign constructor's words.
        facts: What else it does otherwise, in sentences.
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
    """What a reader of a converted model should know.

    Args:
        layers: Where its layers stood, first to last.
        differences: What the foreign layer did otherwise, in sentences.
        assumed: Options that the arrays do not show, as they were taken.
        left_out: Names of arrays that were not read.
    """

    layers: tuple[str, ...]
    differences: tuple[str, ...]
    assumed: Mapping[str, Any]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """A foreign model in this package's terms.

    Args:
        spec: Its options.
        weights: Canonical arrays by key.
        notes: What to know about it.
    """

    spec: Spec
    weights: dict[str, Array]
    notes: Notes
