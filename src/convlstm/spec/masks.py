"""The random masks of a call in training, arrays of any framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from convlstm.errors import ShapeError


class LayerMasks(NamedTuple):
    """The masks of dropout and zoneout of one layer and direction in training; None means no mask of that kind.

    `input` is a factor on every x_t, 0 or 1 / (1 − rate) (batch, channels, *space); `recurrent` on every h_{t−1} before
    W_hh (batch, hidden, *grid). The others are 1 where h or c keeps its old value. They are (batch, time, hidden,
    *grid) in `DropoutMasks`, and time first in the engines.
    """

    input: Any = None
    recurrent: Any = None
    zoneout_h: Any = None
    zoneout_c: Any = None

    def of_step(self, t: int) -> LayerMasks:
        """Return time-first masks with those of zoneout cut to one step."""
        return self.map_steps(lambda mask: mask[t])

    def map_steps(self, function: Callable[[Any], Any]) -> LayerMasks:
        """Return the masks with a function applied to those that have a time axis."""
        zoneout_h, zoneout_c = (None if m is None else function(m) for m in (self.zoneout_h, self.zoneout_c))
        return self._replace(zoneout_h=zoneout_h, zoneout_c=zoneout_c)


@dataclass(frozen=True)
class DropoutMasks:
    """The dropout and zoneout masks of a sequence in training, as `sample_masks` of a layer returns them.

    Pass them to several calls as `dropout_masks`, for the same dropout in each. `masks[first:last]` are the masks of
    a part of the sequence: masks per step are cut, the others are the same in every part.

    Args:
        masks: Masks inside each layer (`LayerMasks`), by (layer index, direction), as `(0, "forward")`.
        dropout: Factor on the merged output of each layer but the last, or None. Those missing at the end are None.

    Shapes:
        masks of a whole sequence: (batch, channels, *space)
        masks per step (zoneout, dropout): (batch, time, channels, *space)
        The channels come last where the frames of the framework have them last. The batch is 1 for frames without one.
        The masks are arrays of the framework, of any real type; a call converts them to the type that it computes in.

    Example:
        >>> import numpy as np
        >>> masks = DropoutMasks({(0, "forward"): LayerMasks(zoneout_h=np.zeros((2, 5, 8, 16, 16)))})
        >>> masks[:3].masks[0, "forward"].zoneout_h.shape
        (2, 3, 8, 16, 16)
    """

    masks: Mapping[tuple[int, str], LayerMasks] = field(default_factory=dict)
    dropout: tuple[Any, ...] = ()

    def __getitem__(self, steps: slice) -> DropoutMasks:
        """Return the masks of a part of the sequence.

        Args:
            steps: First step and the step after the last, as `masks[2:5]`.

        Raises:
            ShapeError: for an index or a stride, which are no part of a sequence.
        """
        if not isinstance(steps, slice) or steps.step not in (None, 1):
            raise ShapeError(
                "steps",
                expected="a range of steps",
                received=repr(steps),
                hint="Write `masks[first:last]`.",
            )
        return self.map_steps(lambda mask: mask[:, steps])

    def map_steps(self, function: Callable[[Any], Any]) -> DropoutMasks:
        """Return the masks with a function applied to those that have a time axis."""
        masks = {place: inside.map_steps(function) for place, inside in self.masks.items()}
        return DropoutMasks(masks, tuple(None if m is None else function(m) for m in self.dropout))
