"""Reading the masks, times and states of a call; what they must be is in `convlstm.spec.calls`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from convlstm.errors import ShapeError
from convlstm.spec import calls
from convlstm.spec.durations import check_durations
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array


def not_an_array(name: str, argument: object, function: str) -> ShapeError:
    """Return the error for an argument that a framework cannot convert into an array."""
    return ShapeError(
        name,
        expected="an array, or numbers",
        received=type(argument).__name__,
        hint=f"Convert `{name}` with `{function}`.",
    )


@dataclass(frozen=True, eq=False)
class CallReader(ABC):
    """Reads the masks, times and states of one call; a frontend fills in the methods on its arrays.

    Args:
        like: An array of the frames' type and device.
        batch: Rows of the batch.
        steps: Number of steps.
        batch_first: Whether durations and gaps have the batch axis before the time axis.
    """

    like: Any
    batch: Any
    steps: Any = 1
    batch_first: bool = True

    namespace: ClassVar[Any]
    channels_last: ClassVar[bool] = True
    state_type: ClassVar[str] = ""
    """Name of the class that a state (h, c) must have, for errors; empty for a tuple."""

    def valid_steps(self, lengths: Any, mask: Any) -> Any:
        """Return True where a step is valid (batch, time), from lengths or a mask; None means everywhere."""
        calls.check_one_of(lengths, mask)
        if lengths is not None:
            counts = self.as_array("lengths", lengths)
            known = self.known_values(counts, lengths)
            inside = tuple(counts.shape) == (self.batch,)
            if inside and known is not None:
                inside = bool(((known >= 0) & (known <= self.steps)).all())
            received: Any = f"shape {tuple(counts.shape)} of {self.type_name(counts)}"
            if known is not None:
                received = known.tolist()
            whole = "int" in str(counts.dtype)
            calls.check_lengths(received, self.batch, self.steps, whole=whole, inside=inside)
            return self.arange(self.steps) < counts[:, None]
        if mask is None:
            return None
        valid = self.as_array("mask", mask)
        whole = "int" in str(valid.dtype) or "bool" in str(valid.dtype)
        calls.check_mask(valid.shape, self.type_name(valid), (self.batch, self.steps), whole=whole)
        return valid != 0

    def check_last_frames(self, spec: ForecasterSpec, state: Any, valid: Any, name: str = "state") -> None:
        """Check that rows that continue from a state have the frame that the forecast needs, where this is known."""
        if state is not None and valid is not None:
            calls.check_last_frames(spec, self.known_values(valid, valid), name)

    def durations(self, spec: ConvLSTMSpec, argument: Any, valid: Any) -> Any:
        """Return durations (batch, time) in at least float32, or None for a layer that does not use them."""
        calls.check_given("durations", spec.duration_strategy != "none", argument)
        return None if argument is None else self.per_step("durations", argument, valid)

    def lead_durations(self, spec: ForecasterSpec, argument: Any) -> Any:
        """Return the durations of the forecast steps (batch, horizon), or None for a model that does not use them."""
        argument = calls.lead_durations_or_reference(spec, argument)
        return None if argument is None else self.per_step("lead_durations", argument)

    def gaps(self, spec: ConvLSTMSpec, argument: Any, valid: Any) -> dict[str, Any] | None:
        """Return gaps (batch, time) by direction, or None for a layer without memory decay."""
        parts = calls.read_gaps(spec, argument)
        return {direction: self.per_step("gaps", gap, valid) for direction, gap in parts.items()} or None

    def per_step(self, name: str, argument: Any, valid: Any = None) -> Any:
        """Return durations or gaps as (batch, time), after checking shape and, where it is known, range."""
        values = self.as_floats(name, argument)
        full = (self.batch, self.steps) if self.batch_first else (self.steps, self.batch)
        calls.check_per_step(name, values.shape, full, self.steps)
        if values.ndim == 3:
            values = values.squeeze(-1)
        if values.ndim == 2 and not self.batch_first:
            values = values.swapaxes(0, 1)
        values = self.namespace.broadcast_to(values, (self.batch, self.steps))
        known = self.known_values(values, argument)
        if known is not None:
            known_valid = None if valid is None else self.known_values(valid, valid)
            if valid is None or known_valid is not None:
                check_durations(name, known, known_valid)
        return values

    def one_step(self, name: str, used: bool, argument: Any) -> Any:
        """Return a cell's duration or gap as (batch, 1), after checking shape and, where it is known, range."""
        calls.check_given(name, used, argument, "duration_strategy" if name == "duration" else "memory_decay")
        if argument is None:
            return None
        values = self.as_floats(name, argument)
        calls.check_one_step(name, values.shape, self.batch)
        known = self.known_values(values, argument)
        if known is not None:
            check_durations(name, known)
        column = values if values.ndim == 2 else values[..., None]
        return self.namespace.broadcast_to(column, (self.batch, 1))

    def states(
        self, argument: Any, shapes: Sequence[tuple[int, ...]], batched: bool = True, *, cell: bool = False
    ) -> list[tuple[Any, Any]]:
        """Return (h_0, c_0) as (h, c) indexed layer · D + direction, after checking them against their shapes.

        Each part is one array or a tuple of them; without a batch axis (`batched`) one of size 1 is added. The errors
        of a `cell` say (h, c).
        """
        names = ("h", "c") if cell else ("h_0", "c_0")
        parts = []
        for name, part in zip(names, calls.state_pair(argument, parts=f"({', '.join(names)})"), strict=True):
            arrays = tuple(part) if isinstance(part, (tuple, list)) else (part,)
            count = len(arrays) if all(self.is_state(array) for array in arrays) else 0
            received = None
            if part is not None:
                received = f"{len(arrays)}: {', '.join(self.type_name(array) for array in arrays)}"
            form = f"{self.state_type}(h, c), each one array"
            if not cell:
                form = f"{self.state_type}(h_0, c_0), each a tuple with one array per layer and direction"
            calls.check_state_count(name, count, len(shapes), received, kind=self.state_kind, form=form)
            full = [array if batched else array[None] for array in arrays]
            for index, (array, shape) in enumerate(zip(full, shapes, strict=True)):
                label = name if cell else f"{name}[{index}]"
                calls.check_state_shape(label, array.shape, shape, channels_last=self.channels_last)
            parts.append(full)
        return list(zip(*parts, strict=True))

    @property
    def state_kind(self) -> str:
        """What the arrays of a state must be, for errors."""
        return "floating arrays"

    def type_name(self, value: Any) -> str:
        """Return the type of an array, or of what is not an array, for errors."""
        return str(getattr(value, "dtype", type(value).__name__))

    @abstractmethod
    def as_array(self, name: str, argument: Any) -> Any:
        """Return an argument as an array, or raise an error that names it."""

    @abstractmethod
    def as_floats(self, name: str, argument: Any) -> Any:
        """Return an argument as an array of at least float32, or raise an error that names it."""

    @abstractmethod
    def known_values(self, values: Any, argument: Any) -> Array | None:
        """Return values that can be read without waiting for an accelerator, and None while a function is traced.

        `argument` is the argument that the values were made of.
        """

    @abstractmethod
    def arange(self, steps: Any) -> Any:
        """Return the numbers of the steps (time)."""

    @abstractmethod
    def is_state(self, value: Any) -> bool:
        """Return whether a value is an array that a state may consist of."""
