"""One layer of a stack, with every option in its normalised form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convlstm.errors import SpecError
from convlstm.spec.geometry import Padding, Widths, effective_kernel, output_size, recurrent_pad_widths
from convlstm.spec.parsing import MAX_SPAN

if TYPE_CHECKING:
    from convlstm.spec.options import ConvLSTMSpec


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a stack, with every option in its normalised form.

    Engines and the reference read this class; users build a ConvLSTMSpec and read its `layers`.

    Args:
        index: Index in the stack, from 0.
        in_channels: Channels of the input; 0 for a layer without input.
        hidden_channels: Channels of h and c.
        kernel_size: Input kernel per spatial axis.
        recurrent_kernel_size: Recurrent kernel per spatial axis.
        stride: Stride of the input convolution per axis.
        padding: `same`, `valid`, or points per axis, of the input convolution.
        dilation: Dilation of the input convolution per axis.
        recurrent_dilation: Dilation of the recurrent convolution per axis.
        groups: Groups of the input convolution, inside each gate.
        stack: The spec of the stack, with the options that all its layers share.
    """

    index: int
    in_channels: int
    hidden_channels: int
    kernel_size: tuple[int, ...]
    recurrent_kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    recurrent_dilation: tuple[int, ...]
    groups: int
    stack: ConvLSTMSpec

    def grid(self, input_size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the state's grid for an input of this spatial size."""
        if not self.in_channels:
            return tuple(input_size)
        return output_size(input_size, self.kernel_size, self.stride, self.dilation, self.padding)

    @property
    def recurrent_widths(self) -> Widths:
        """The points (before, after) added around h along each axis, which keep its size."""
        return recurrent_pad_widths(self.recurrent_kernel_size, self.recurrent_dilation)

    @property
    def has_dense_recurrence(self) -> bool:
        """Whether the recurrent convolution has dilation 1 along every axis."""
        return set(self.recurrent_dilation) == {1}

    @property
    def is_standard_cell(self) -> bool:
        """Whether this is the cell for which engines have a fused implementation.

        The standard cell has the activations tanh and sigmoid, no norm, no zoneout, no peepholes or one per channel,
        zeros around its frames and states, and one group. Both convolutions may be dilated. Dropout, masks, durations
        and memory decay do not count: they belong to the call, or act outside the cell.

        Example:
            >>> from convlstm.spec.options import ConvLSTMSpec
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=[8, 8], kernel_size=3, norm="layer")
            >>> [layer.is_standard_cell for layer in spec.layers]
            [False, False]
        """
        spec = self.stack
        return (
            spec.activation == "tanh"
            and spec.recurrent_activation == "sigmoid"
            and spec.norm == "none"
            and spec.zoneout_h == spec.zoneout_c == 0
            and spec.peephole in ("none", "channel")
            and set(spec.boundary) == {"zeros"}
            and self.groups == 1
        )

    def check(self) -> None:
        """Raise an error for groups that do not divide the channels, huge spans, and options without effect."""
        if self.in_channels == 0:
            self._check_no_input()
        self._check_spans()
        for name, size in (("in_channels", self.in_channels), ("hidden_channels", self.hidden_channels)):
            if size % self.groups:
                raise SpecError(
                    "groups",
                    expected=f"a divisor of {name}, which is {size} in layer {self.index}",
                    received=self.groups,
                    hint="Choose a common divisor of the input and hidden channels.",
                )
        if self.stack.norm == "group" and self.hidden_channels % (self.stack.norm_groups or 1):
            raise SpecError(
                "norm_groups",
                expected=f"a divisor of hidden_channels, which is {self.hidden_channels} in layer {self.index}",
                received=self.stack.norm_groups,
                hint="Choose a divisor of `hidden_channels`.",
            )

    def _check_spans(self) -> None:
        """Raise an error for a convolution that would need far more padding than frames have points."""
        spans = {
            "stride": self.stride,
            "padding": () if isinstance(self.padding, str) else self.padding,
            "dilation": map(effective_kernel, self.kernel_size, self.dilation),
            "recurrent_dilation": map(effective_kernel, self.recurrent_kernel_size, self.recurrent_dilation),
        }
        for name, values in spans.items():
            largest = max(values, default=0)
            if largest > MAX_SPAN:
                raise SpecError(
                    name,
                    expected=f"a convolution over at most {MAX_SPAN} points of an axis",
                    received=f"{largest} points",
                    hint="Use a smaller kernel, dilation, padding or stride.",
                )

    def _check_no_input(self) -> None:
        """Raise an error for an option of the input convolution, which a layer without input does not have."""
        ones = (1,) * len(self.stride)
        neutral = {"stride": ones, "padding": "same", "dilation": ones, "groups": 1}
        for name, value in neutral.items():
            if getattr(self, name) != value:
                usual = value if isinstance(value, str) else 1
                raise SpecError(
                    name,
                    expected=f"{usual!r} in a layer without input, which has no input convolution",
                    received=repr(getattr(self, name)),
                    hint=f"Set `{name}={usual!r}` for the first layer.",
                )
