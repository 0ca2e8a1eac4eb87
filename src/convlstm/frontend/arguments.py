"""Reading the arguments of a layer's or a cell's constructor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convlstm.errors import SpecError
from convlstm.spec import parsing
from convlstm.spec.choices import LayerOptions
from convlstm.spec.options import ConvLSTMSpec

_KEYWORDS = ("stride", "padding", "dilation", "groups", "bias", *LayerOptions.__annotations__)
_CELL = {"num_layers": 1, "direction": "forward", "masked_output": "zero"}


def layer_spec(
    in_channels: object,
    hidden_channels: Any,
    kernel_size: Any,
    num_layers: int | None,
    options: Mapping[str, Any],
    *,
    bidirectional: object = False,
    in_argument: str = "in_channels",
) -> ConvLSTMSpec:
    """Return the spec of a layer; `in_argument` is the frontend's name for `in_channels`."""
    parsing.check_options(options, _KEYWORDS)
    if parsing.flag("bidirectional", bidirectional):
        if options.get("direction", "bidirectional") != "bidirectional":
            raise SpecError(
                "direction",
                expected="no other direction with bidirectional=True",
                received=repr(options["direction"]),
                hint="Pass `bidirectional` or `direction`, not both.",
            )
        options = {**options, "direction": "bidirectional"}
    return ConvLSTMSpec(
        in_channels=parsing.integer(in_argument, in_channels, 0),
        hidden_channels=hidden_channels,
        kernel_size=kernel_size,
        num_layers=num_layers,
        **options,
    )


def cell_spec(
    in_channels: object,
    hidden_channels: Any,
    kernel_size: Any,
    options: Mapping[str, Any],
    *,
    in_argument: str = "in_channels",
) -> ConvLSTMSpec:
    """Return the spec of a cell: one layer, forward. An option for whole sequences or several layers is an error."""
    allowed = {"num_layers": 1, "bidirectional": False}
    for name, only in allowed.items():
        if name in options and options[name] != only:
            raise _not_in_a_cell(name, only, options[name])
    further = {name: value for name, value in options.items() if name not in allowed}
    spec = layer_spec(in_channels, hidden_channels, kernel_size, 1, further, in_argument=in_argument)
    check_cell(spec)
    return spec


def check_cell(spec: ConvLSTMSpec) -> None:
    """Raise an error for a spec that needs the whole sequence, or several layers."""
    for name, only in _CELL.items():
        if getattr(spec, name) != only:
            raise _not_in_a_cell(name, only, getattr(spec, name))


def check_has_input(spec: ConvLSTMSpec, module: str) -> None:
    """Raise an error for a spec without input; `module` is the kind of module that needs one."""
    if not spec.in_channels:
        raise SpecError(
            "in_channels",
            expected=f"at least 1 in {module}",
            received=0,
            hint="Use the layer `ConvLSTM` for steps without input.",
        )


def check_spec_type(spec: object, kind: type[Any]) -> None:
    """Raise an error unless `spec` is a spec of this kind."""
    if not isinstance(spec, kind):
        raise SpecError(
            "spec",
            expected=f"a {kind.__name__}",
            received=type(spec).__name__,
            hint=f"Build a `convlstm.{kind.__name__}` first.",
        )


def _not_in_a_cell(name: str, only: object, received: object) -> SpecError:
    return SpecError(name, expected=f"{only} in a cell", received=received, hint="Use the layer `ConvLSTM`.")
