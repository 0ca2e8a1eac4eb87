"""What the layers share that start each call from the final state of the call before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convlstm.errors import SpecError, StateError
from convlstm.frontend.arguments import check_has_input
from convlstm.spec.options import ConvLSTMSpec


def check_stateful(spec: ConvLSTMSpec) -> None:
    """Raise an error for a layer that runs backwards, which cannot continue from a state, or that has no input."""
    check_has_input(spec, "a stateful layer, whose first call gives the grid")
    if spec.direction != "forward":
        raise SpecError(
            "direction",
            expected="forward in a stateful layer",
            received=spec.direction,
            hint="Use the layer without state: a backward pass starts at the end of each sequence.",
        )


def continue_sequence(run: Callable[..., tuple[Any, Any]], x: Any, state: Any, options: dict[str, Any]) -> Any:
    """Run a layer from the state of its last call, or from zeros for None.

    A state in `options` (`state` or `hx`) raises a `StateError`; so does another batch, grid or device than in the
    last call.
    """
    for name in ("state", "hx"):
        if name in options:
            raise StateError(
                name,
                expected="no state in a stateful layer",
                received="one",
                hint="Call `reset_state()`, or call the wrapped layer with a state.",
            )
    try:
        return run(x, state, **options)
    except StateError as error:
        raise StateError(
            "x",
            expected="the batch and grid of the call before",
            received=f"others: that call's {error.argument} is {error.received}",
            hint="Call `reset_state()` before an unrelated sequence.",
        ) from error
