"""Specs of published models, with the parameter counts of their papers."""

from __future__ import annotations

from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec


def _shi(hidden: list[int], kernel: int, recurrent: int) -> ForecasterSpec:
    stack = ConvLSTMSpec(
        in_channels=16,
        hidden_channels=hidden,
        kernel_size=kernel,
        recurrent_kernel_size=recurrent,
        peephole="channel",
    )
    return ForecasterSpec(encoder=stack, patch_size=4, output_activation="sigmoid")


def _openstl(hidden: int, frame_channels: int, patch: int) -> ForecasterSpec:
    stack = ConvLSTMSpec(in_channels=frame_channels * patch**2, hidden_channels=[hidden] * 4, kernel_size=5, bias=False)
    return ForecasterSpec(
        encoder=stack, frame_channels=frame_channels, patch_size=patch, rollout="feedback", head_bias=False
    )


PRESETS: dict[str, ForecasterSpec] = {
    "shi2015-5x5-256": _shi([256], 5, 5),
    "shi2015-5x5-128-128": _shi([128, 128], 5, 5),
    "shi2015-5x5-128-64-64": _shi([128, 64, 64], 5, 5),
    "shi2015-1x1-128-128": _shi([128, 128], 9, 1),
    "shi2015-1x1-128-64-64": _shi([128, 64, 64], 9, 1),
    "openstl-mmnist-s": _openstl(128, 1, 4),
    "openstl-mmnist-l": _openstl(192, 1, 4),
    "openstl-mmnist-cifar-s": _openstl(128, 3, 4),
    "openstl-kth": _openstl(128, 1, 2),
    "openstl-kitticaltech": _openstl(128, 3, 2),
    "openstl-taxibj": _openstl(128, 2, 2),
}
"""Forecasters of Shi et al. (2015), Table 1, and of OpenSTL's ConvLSTM without its unused layers.

Counts: `shi2015-*` 13,524,496; 10,042,896; 7,585,296; 11,550,224; 8,830,480. `openstl-*` 11,675,648;
26,115,072; 12,089,344; 11,520,512; 11,623,936; 11,572,224. OpenSTL prints 22 to 23 % more, because it also counts
layers that it never calls.
"""
