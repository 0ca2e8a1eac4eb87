"""The call forms of other ConvLSTM code, as thin classes over this package's own.

Import the names from here and the rest of the code stays as it is. `load_state_dict` reads the weights of that code
too. The values differ where that code was wrong: see "Migrating from other implementations" in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from convlstm.errors import SpecError, StateError
from convlstm.frontend.arguments import check_has_input
from convlstm.frontend.stateful import continue_sequence
from convlstm.spec import parsing
from convlstm.spec.choices import PER_LAYER
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import LayerSizes, PerAxis
from convlstm.torch import cell as native
from convlstm.torch import inputs
from convlstm.torch import layer as native_layer
from convlstm.torch.gate import ConvGate
from convlstm.torch.module import SpecModule
from convlstm.torch.old_names import LoadsFusedConvolutions
from convlstm.torch.stateful import detached
from convlstm.torch.weights import native_name

__all__ = ["ConvGate", "ConvLSTM", "ConvLSTMCell", "DurationAwareConvLSTMCell"]

State = tuple[Tensor, Tensor]


class DurationAwareConvLSTMCell(LoadsFusedConvolutions, native.ConvLSTMCell):
    """A cell whose candidate is scaled by a learned function of its duration: `h, c = cell(x, duration, (h, c))`.

        c_t = f ∘ c_{t-1} + i ∘ (g · δ(Δ_t)),   h_t = o ∘ tanh(c_t)

    `load_state_dict` reads `conv_gates.weight` and `conv_gates.bias` of that code. Its `duration_mlp` is another
    function of the duration and is reported as unexpected: pass `strict=False` to load the gates alone.

    Args:
        input_dim: Channels of a frame.
        hidden_dim: Channels of h and c.
        kernel_size: Kernel of both convolutions.
        strategy: δ: `mlp` (default), `log`, `log1p`, `linear`, `exp`, `scalar`, or a function of the relative duration.
        **options: Every further option of `ConvLSTMCell`.

    Shapes:
        x: (batch, input_dim, height, width)
        duration: a number, (batch,) or (batch, 1)
        h, c: (batch, hidden_dim, height, width)

    Example:
        >>> import torch
        >>> rnn_cell = DurationAwareConvLSTMCell(input_dim=3, hidden_dim=64, kernel_size=(3, 3))
        >>> h, c = rnn_cell.init_hidden(batch_size=4, image_size=(16, 16))
        >>> for frame, duration in zip(torch.zeros(2, 4, 3, 16, 16), torch.ones(2, 4, 1)):
        ...     h, c = rnn_cell(frame, duration, (h, c))
        >>> tuple(h.shape)
        (4, 64, 16, 16)
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: PerAxis,
        strategy: str | Callable[[Any], Any] = "mlp",
        **options: Any,
    ) -> None:
        if strategy == "none":
            raise SpecError(
                "strategy", expected="a duration strategy", received="none", hint="Use `ConvLSTMCell` for even steps."
            )
        super().__init__(input_dim, hidden_dim, kernel_size, duration_strategy=strategy, **options)

    @classmethod
    def old_name(cls, index: int) -> str:
        """Return the name of the convolution in the code that this cell replaces."""
        return "conv_gates"

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that needs the whole sequence or several layers, or that has no input."""
        super().check_spec(spec)
        check_has_input(spec, "this form of the cell")

    def forward(self, x: Tensor, duration: Tensor | float, state: State | None = None, **options: Any) -> State:  # type: ignore[override]
        """Take one step of this duration (arguments: `ConvLSTMCell.forward`)."""
        return super().forward(x, state, duration=duration, **options)


class ConvLSTMCell(LoadsFusedConvolutions, native.ConvLSTMCell):
    """The cell of the widely copied implementation: `h, c = cell(input_tensor=x, cur_state=[h, c])`.

    `load_state_dict` reads `conv.weight` and `conv.bias` of that implementation.

    Args:
        input_dim: Channels of a frame.
        hidden_dim: Channels of h and c.
        kernel_size: Kernel of both convolutions, padded to keep the size; even sizes work.
        bias: Whether the gates have a bias.
        **options: Every further option of `convlstm.torch.ConvLSTMCell`.

    Example:
        >>> import torch
        >>> cell = ConvLSTMCell(input_dim=1, hidden_dim=8, kernel_size=(3, 3), bias=True)
        >>> state = cell.init_hidden(2, (16, 16))
        >>> h, c = cell(input_tensor=torch.zeros(2, 1, 16, 16), cur_state=state)
        >>> tuple(c.shape)
        (2, 8, 16, 16)
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, kernel_size: PerAxis, bias: bool = True, **options: Any
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias=bias, **options)

    @classmethod
    def old_name(cls, index: int) -> str:
        """Return the name of the convolution in the code that this cell replaces."""
        return "conv"

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that needs the whole sequence or several layers, or that has no input."""
        super().check_spec(spec)
        check_has_input(spec, "this form of the cell")

    @property
    def input_dim(self) -> int:
        """Channels of a frame."""
        return self.in_channels

    @property
    def hidden_dim(self) -> int:
        """Channels of h and c."""
        return self.hidden_channels

    def forward(self, input_tensor: Tensor, cur_state: Sequence[Tensor] | None = None, **options: Any) -> State:  # type: ignore[override]
        """Take one step (arguments: `ConvLSTMCell.forward` of `convlstm.torch`)."""
        return super().forward(input_tensor, cur_state, **options)  # type: ignore[arg-type]


class ConvLSTM(LoadsFusedConvolutions, native_layer.ConvLSTM):
    """The stack of the widely copied implementation: two lists come back, outputs and (h, c), layer by layer.

    `load_state_dict` reads `cell_list.0.conv.weight`, `cell_list.0.conv.bias` and so on of that implementation.

    Args:
        input_dim: Channels of the frames.
        hidden_dim: Channels of h and c; a list gives one number per layer.
        kernel_size: Kernel of both convolutions; a list gives one per layer.
        num_layers: Number of layers.
        batch_first: Whether batch comes before time; False in this form only.
        bias: Whether the gates have a bias.
        return_all_layers: Whether both lists speak of every layer, not only of the last.
        stateful: Whether a call without a state goes on, detached, where the last one ended (`reset_state` forgets).
        **options: Every further option of `convlstm.torch.ConvLSTM`, for one direction.

    Attributes:
        last_state: With `stateful`, [(h, c)] of every layer after the last call, detached, or None.
        cell_list: The layers as cells that share their parameters.

    Shapes:
        input_tensor: (time, batch, input_dim, height, width), or batch first
        returns: [output (batch, time, hidden_dim, height, width)], [(h, c)], each (batch, hidden_dim, height, width);
            outputs are batch first in either case, as they were there

    Example:
        >>> import torch
        >>> convlstm = ConvLSTM(1, 16, (3, 3), 1, batch_first=True, bias=True, return_all_layers=False)
        >>> _, last_states = convlstm(torch.rand(2, 10, 1, 16, 16))
        >>> tuple(last_states[0][0].shape)
        (2, 16, 16, 16)
    """

    batch_first: bool = False
    return_all_layers: bool = False
    stateful: bool = False
    last_state: list[State] | None = None

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | Sequence[int],
        kernel_size: LayerSizes,
        num_layers: int,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
        stateful: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(kernel_size, list):  # per layer in this form, whatever its length
            rank = parsing.spatial_dims(options.get("spatial_dims"), kernel_size, num_layers=2)
            kernel_size = [(int(size),) * rank if isinstance(size, Integral) else size for size in kernel_size]
        super().__init__(input_dim, hidden_dim, kernel_size, num_layers, batch_first=batch_first, bias=bias, **options)
        self.return_all_layers = parsing.flag("return_all_layers", return_all_layers)
        self.stateful = parsing.flag("stateful", stateful)
        if self.stateful and self.spec.direction != "forward":
            raise SpecError(
                "direction",
                expected="forward if stateful",
                received="reverse",
                hint="Remove `stateful` or `direction`.",
            )

    @classmethod
    def old_name(cls, index: int) -> str:
        """Return the name of a layer's convolution in the code that this stack replaces."""
        return f"cell_list.{index}.conv"

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for two directions, whose states this form cannot return, and for a layer without input."""
        check_has_input(spec, "this form of the layer")
        if spec.direction == "bidirectional":
            raise SpecError("direction", expected="one way", received="two", hint="Use `convlstm.torch.ConvLSTM`.")

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults."""
        options = {"return_all_layers": self.return_all_layers, "stateful": self.stateful}
        return ", ".join([super().extra_repr(), *(f"{name}=True" for name, value in options.items() if value)])

    @property
    def input_dim(self) -> int:
        """Channels of the frames."""
        return self.spec.in_channels

    @property
    def hidden_dim(self) -> list[int]:
        """Channels of h and c, layer by layer."""
        return list(self.spec.hidden_channels)

    @property
    def kernel_size(self) -> list[tuple[int, ...]]:
        """Kernels, layer by layer."""
        return list(self.spec.kernel_size)

    @property
    def cell_list(self) -> list[ConvLSTMCell]:
        """The layers as cells; their parameters are this module's own."""
        return [self._cell(index) for index in range(self.num_layers)]

    def reset_state(self) -> None:
        """Forget the state of the last call."""
        self.last_state = None

    def forward(  # type: ignore[override]
        self,
        input_tensor: Tensor | PackedSequence,
        hidden_state: Sequence[Sequence[Tensor]] | None = None,
        *,
        hx: Sequence[Sequence[Tensor]] | None = None,
        **options: Any,
    ) -> tuple[list[Any], list[State]]:
        """Run the stack (further arguments: `ConvLSTM.forward` of `convlstm.torch`).

        Args:
            input_tensor: Frames.
            hidden_state: [(h, c)] of every layer; None means zeros, or with `stateful` where the last call ended.
            hx: Another name of `hidden_state`.
            **options: Lengths, masks, durations and so on.

        Returns:
            Outputs and (h, c), of the last layer or of all.
        """
        if "all_layers" in options:
            raise SpecError(
                "all_layers",
                expected="`return_all_layers` of the constructor",
                received=f"all_layers={options['all_layers']!r} in a call",
                hint="Build the module with `return_all_layers`.",
            )
        run = super().forward
        hidden_state = inputs.one_state("hidden_state", hidden_state, hx)
        if hidden_state is None and self.stateful:
            state = _by_part(self.last_state)
            outputs, (h, c) = continue_sequence(run, input_tensor, state, {**options, "all_layers": True})
        else:
            outputs, (h, c) = run(input_tensor, _by_part(hidden_state), all_layers=True, **options)
        if self.stateful:
            self.last_state = list(zip(*detached((h, c)), strict=True))
        is_padded = isinstance(input_tensor, Tensor) and input_tensor.ndim == self.spec.spatial_dims + 3
        if is_padded and not self.batch_first:
            outputs = [output.transpose(0, 1) for output in outputs]
        first = 0 if self.return_all_layers else -1
        return list(outputs)[first:], list(zip(h, c, strict=True))[first:]

    def _cell(self, index: int) -> ConvLSTMCell:
        spec = self.spec
        options: dict[str, Any] = {name: [getattr(spec.layers[index], name)] for name in PER_LAYER}
        size = spec.grids(spec.input_size)[index - 1] if index and spec.input_size else spec.input_size
        alone = replace(
            spec,
            in_channels=spec.layers[index].in_channels,
            num_layers=1,
            dropout=0.0,
            direction="forward",
            masked_output="zero",
            input_size=size,
            **options,
        )
        cell = ConvLSTMCell.__new__(ConvLSTMCell)
        SpecModule.__init__(cell, alone, device="meta", start=False)
        for name, parameter in self.layer_weights(index).items():
            setattr(cell, native_name(f"layers.0.forward.{name}"), parameter)
        return cell.train(self.training)


def _by_part(state: Sequence[Sequence[Tensor]] | None) -> Any:
    """Return [(h, c)] by layer as (h_0, c_0)."""
    if state is None:
        return None
    pairs = list(state) if isinstance(state, (list, tuple)) else []
    if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise StateError(
            "hidden_state",
            expected="a list of (h, c), one pair per layer",
            received=repr(type(state).__name__),
            hint="Pass the state that the layer returned with `return_all_layers=True`.",
        )
    return tuple(zip(*pairs, strict=True))
