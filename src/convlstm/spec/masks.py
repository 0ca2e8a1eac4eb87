"""The random masks inside one layer, arrays of any framework."""

from __future__ import annotations

from typing import Any, NamedTuple


class LayerMasks(NamedTuple):
    """The masks of dropout and zoneout of one layer and direction in training; None means no mask of that kind.

    `input` is a factor on every x_t, 0 or 1 / (1 − rate) (batch, channels, *space); `recurrent` on every h_{t−1} before
    W_hh (batch, hidden, *grid). The others are 1 where h or c keeps its old value (time, batch, hidden, *grid).
    """

    input: Any = None
    recurrent: Any = None
    zoneout_h: Any = None
    zoneout_c: Any = None

    def of_step(self, t: int) -> LayerMasks:
        """Return the masks with those of zoneout cut to one step."""
        zoneout_h = None if self.zoneout_h is None else self.zoneout_h[t]
        zoneout_c = None if self.zoneout_c is None else self.zoneout_c[t]
        return self._replace(zoneout_h=zoneout_h, zoneout_c=zoneout_c)
