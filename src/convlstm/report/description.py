"""The description of an evaluation, and how the page names its variable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from convlstm.verification.lead_times import signed


class TrainingStep(BaseModel):
    """One line of the training log."""

    step: int
    loss: float | None
    validation_loss: float | None = None
    learning_rate: float | None = None


class Evaluation(BaseModel):
    """The content of `evaluation.json`: a description of the run."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    title: str
    units: str
    variable: str
    long_name: str = ""  # of the variable; empty in a folder of an earlier version
    rain: bool
    methods: list[str] = Field(min_length=1)
    facts: dict[str, str] = {}
    training_days: list[str] = []  # scored days on which the model was trained or validated
    attribution: str = ""
    thresholds: list[float] = []
    fss_window: int = 10
    patch_size: int = 1
    training: list[TrainingStep] = []

    @property
    def is_rain_rate(self) -> bool:
        """Whether the values are rain rates in mm/h."""
        return self.rain and self.units == "mm/h"

    @property
    def name(self) -> str:
        """The variable in words."""
        return self.long_name or self.variable.replace("_", " ")

    @property
    def bracketed_units(self) -> str:
        """The unit in brackets after a space; empty for numbers without a unit."""
        return f" ({self.units})" if self.units not in ("", "1") else ""

    @property
    def label(self) -> str:
        """The variable with its unit, for titles."""
        return f"{self.name[:1].upper()}{self.name[1:]}{self.bracketed_units}"

    def amount(self, value: float) -> str:
        """Return a value with its unit, such as `0.5 mm/h`."""
        units = self.units if self.units != "1" else ""
        return f"{signed(f'{value:.6g}')} {units}".rstrip()
