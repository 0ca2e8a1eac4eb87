"""The arguments of the constructor as read-only attributes, as the modules of `torch.nn` have them."""

from __future__ import annotations

from convlstm.spec.options import ConvLSTMSpec

KernelSize = tuple[int, ...] | list[tuple[int, ...]]


class Attributes:
    """The attributes that a layer and a cell share; `_options` is the spec that they are read from."""

    @property
    def _options(self) -> ConvLSTMSpec:
        raise NotImplementedError

    @property
    def in_channels(self) -> int:
        """Channels of the frames."""
        return self._options.in_channels

    @property
    def bias(self) -> bool:
        """Whether the gates have a bias."""
        return self._options.bias


class CellAttributes(Attributes):
    """The attributes of a cell."""

    @property
    def hidden_channels(self) -> int:
        """Channels of h and c."""
        return int(self._options.hidden_channels[0])

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Kernel of the input convolution, one number per spatial axis."""
        return tuple(self._options.kernel_size[0])


class LayerAttributes(Attributes):
    """The attributes of a stack; a list has one item per layer, as in the constructor."""

    @property
    def hidden_channels(self) -> int | list[int]:
        """Channels of h and c: one number, or a list with one per layer where the layers differ."""
        first, *others = self._options.hidden_channels
        return [first, *others] if any(item != first for item in others) else int(first)

    @property
    def kernel_size(self) -> KernelSize:
        """Kernel of the input convolution, per spatial axis: one tuple, or a list of them where the layers differ."""
        first, *others = self._options.kernel_size
        return [first, *others] if any(item != first for item in others) else tuple(first)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self._options.depth

    @property
    def bidirectional(self) -> bool:
        """Whether each layer also runs backwards in time."""
        return self._options.direction == "bidirectional"
