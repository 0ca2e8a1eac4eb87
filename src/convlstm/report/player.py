"""The data of a player: maps in panels, with a slider of lead times and a choice of cases or scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from convlstm.report.embedding import Rounding
from convlstm.report.images import MapImage


@dataclass(frozen=True)
class Panel:
    """One map of a player."""

    name: str
    slot: int | None  # number of the colour and marker of its method; None for the observation


@dataclass(frozen=True)
class Choice:
    """One entry of the list of a player, such as a case."""

    label: str
    rounding: int  # number of its rounding and colour scale
    times: list[str]  # valid time of each frame; empty for none
    sheets: list[str]  # encoded frames of each panel


@dataclass(frozen=True)
class Player:
    """Everything that a player shows."""

    name: str  # within the page
    choice_title: str  # what is chosen from the list
    shape: tuple[int, int]  # rows and columns of a map
    panels: list[Panel]
    inputs: int  # number of frames before the start, which only the first panel has
    first: int  # number of the frame at the beginning
    leads: list[float]  # minutes
    labels: list[str]
    roundings: list[tuple[Rounding, str]]  # with the titles of their colour bars
    choices: list[Choice]
    stills: list[MapImage]  # of the first choice, for browsers without scripts
    alts: list[str]  # their descriptions

    @property
    def height(self) -> int:
        """Number of rows of a map."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Number of columns of a map."""
        return self.shape[1]

    @cached_property
    def data(self) -> dict[str, Any]:
        """The values for the script, as JSON values."""
        return {
            "width": self.width,
            "height": self.height,
            "inputs": self.inputs,
            "first": self.first,
            "leads": self.leads,
            "labels": self.labels,
            "panels": [panel.name for panel in self.panels],
            "scales": [{**rounding.to_json(), "title": title} for rounding, title in self.roundings],
            "choices": [
                {"label": c.label, "scale": c.rounding, "times": c.times, "sheets": c.sheets} for c in self.choices
            ],
        }
