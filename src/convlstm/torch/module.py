"""What a layer and a cell share: a spec, and the parameters that follow from it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from convlstm.engine.torch.recurrence import State
from convlstm.engine.torch.rows import Rows
from convlstm.errors import SpecError
from convlstm.frontend.arguments import check_spec_type
from convlstm.frontend.loading import HoldsExtra
from convlstm.spec.calls import state_shapes
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.printing import options_in_words
from convlstm.torch import inputs
from convlstm.torch.weights import native_name, register, reset
from convlstm.weights.canonical import layer_shapes


class ExportableModule(nn.Module):
    """A module that `torch.jit` treats as a whole: the older ONNX exporter exports it, and a script is refused."""

    def __prepare_scriptable__(self) -> nn.Module:
        """Raise an error, in place of one about the first line that TorchScript does not know."""
        raise SpecError(
            "torch.jit.script",
            expected="`torch.export.export` or `torch.jit.trace`",
            received=type(self).__name__,
            hint="TorchScript cannot compile this module; export it, or trace it with an example input.",
        )

    def _slow_forward(self, *arguments: Any, **options: Any) -> Any:
        """Call `forward` while `torch.jit.trace` runs.

        The older ONNX exporter passes the defaults of keyword arguments by position, in the order of the signature.
        """
        parameters = inspect.signature(self.forward).parameters.values()
        by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        further = dict(zip(names, arguments[len(by_position) :], strict=False))
        return super()._slow_forward(*arguments[: len(by_position)], **further, **options)  # type: ignore[no-untyped-call]


class SpecModule(HoldsExtra, ExportableModule):
    """A module whose parameters are the canonical arrays of a `ConvLSTMSpec`, under PyTorch's names.

    Without `start` the parameters keep no values.
    """

    rows: Rows | None = None  # see `convlstm.torch.divide_rows`

    def __init__(
        self,
        spec: ConvLSTMSpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        start: bool = True,
    ) -> None:
        super().__init__()
        if dtype not in (None, *inputs.DTYPES):
            raise SpecError(
                "dtype",
                expected=f"None or one of {inputs.DTYPE_NAMES}",
                received=repr(dtype),
                hint="Choose one of these.",
            )
        check_spec_type(spec, ConvLSTMSpec)
        if isinstance(spec.duration_strategy, nn.Module):
            raise SpecError(
                "duration_strategy",
                expected="a name, or a function without parameters",
                received="a module, which this layer would not train",
                hint="Pass `mlp` or `exp`, or scale the candidate outside the layer.",
            )
        self.check_spec(spec)
        self.spec = spec
        register(self, spec, device=device, dtype=dtype)
        self._names = {
            (layer.index, direction): {
                name: native_name(f"layers.{layer.index}.{direction}.{name}") for name in layer_shapes(layer)
            }
            for layer in spec.layers
            for direction in spec.directions
        }
        if start:
            self.reset_parameters()

    @property
    def _options(self) -> ConvLSTMSpec:
        return self.spec

    @classmethod
    def check_spec(cls, spec: ConvLSTMSpec) -> None:
        """Raise an error for a spec that this kind of module cannot compute."""

    @classmethod
    def from_spec(
        cls, spec: ConvLSTMSpec, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Build the module from a spec, as read from a file.

        Args:
            spec: Every option.
            device: As in every PyTorch module.
            dtype: As in every PyTorch module.

        Returns:
            A freshly initialised module.

        Example:
            >>> from convlstm import ConvLSTMSpec
            >>> from convlstm.torch import ConvLSTM
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
            >>> ConvLSTM.from_spec(spec).spec == spec
            True
        """
        module = cls.__new__(cls)
        SpecModule.__init__(module, spec, device=device, dtype=dtype)
        return module

    def reset_parameters(self, seed: int | None = None) -> None:
        """Initialise the parameters again, as the contract defines it.

        Args:
            seed: Any integer of at least 0; None draws one from PyTorch's global generator.
        """
        reset(self, seed)

    def layer_weights(self, index: int = 0, direction: str | None = None) -> dict[str, Tensor]:
        """Return the arrays of one layer and direction by the names of the contract."""
        names = self._names[index, direction or self.spec.directions[0]]
        return {name: getattr(self, native) for name, native in names.items()}

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults, as `torch.nn.LSTM` prints them."""
        return options_in_words(self.spec)

    def _states(
        self, given: Any, reader: inputs.CallReader, batched: bool, *, cell: bool = False
    ) -> Sequence[State | None]:
        """Return the initial states for the reader's frames, checked against batch and grid; None means zeros.

        The state of a `cell` is one pair of tensors (h, c).
        """
        shapes = state_shapes(self.spec, reader.batch, reader.like.shape[-self.spec.spatial_dims :])
        if given is None:
            return [None] * len(shapes)
        if not cell:
            given = inputs.unstacked_state(given, shapes, batched)
        return reader.states(given, shapes, batched, cell=cell)
