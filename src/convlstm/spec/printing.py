"""Print a spec as the arguments that build it, for the `repr` of layers."""

from __future__ import annotations

from typing import Any

from convlstm.spec.choices import PER_LAYER
from convlstm.spec.options import ConvLSTMSpec

_AXES = ("kernel_size", "recurrent_kernel_size", "stride", "padding", "dilation", "recurrent_dilation", "boundary")


def options_in_words(spec: ConvLSTMSpec) -> str:
    """Return the options that differ from their defaults, as the arguments of a constructor."""
    plain = ConvLSTMSpec(
        in_channels=1, hidden_channels=[1] * spec.depth, kernel_size=1, spatial_dims=spec.spatial_dims, bias=spec.bias
    )
    usual = vars(plain) | {"recurrent_kernel_size": spec.kernel_size, "spatial_dims": 2, "bias": True}
    hidden = _short("hidden_channels", spec.hidden_channels, spec.spatial_dims)
    usual["num_layers"] = spec.depth if isinstance(hidden, list) else 1
    kernel = _short("kernel_size", spec.kernel_size, spec.spatial_dims)
    parts = [f"{spec.in_channels}, {hidden}, kernel_size={kernel!r}"]
    for name in list(ConvLSTMSpec.__dataclass_fields__)[3:]:
        value = getattr(spec, name)
        if value != usual[name]:
            parts.append(f"{name}={_short(name, value, spec.spatial_dims)!r}")
    return ", ".join(parts)


def _short(name: str, value: Any, rank: int) -> Any:
    """Return a normalised value as a user writes it: one value if all layers or axes agree."""
    if name in PER_LAYER:
        layers = [_one(item) if name in _AXES else item for item in value]
        if all(item == layers[0] for item in layers):
            return layers[0]
        # two numbers for two layers in two dimensions are ambiguous
        could_be_axes = name in _AXES and all(isinstance(item, int) and len(layers) == rank for item in layers)
        return list(value) if could_be_axes else layers
    return _one(value) if name in _AXES else value


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and all(item == value[0] for item in value) else value
