"""Keras's forms of options, and the options of the contract."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import keras

from convlstm.errors import ConvLSTMError, SpecError
from convlstm.keras.engines import Tensor
from convlstm.spec.choices import KERAS_WORDS, CellOptions

Shape = tuple[int | None, ...]

OF_KERAS = frozenset({"name", "trainable", "dtype", "activity_regularizer", "input_shape", "batch_input_shape"})
"""Arguments that every layer of Keras takes."""

CONTRACT_OPTIONS = frozenset({"groups", *CellOptions.__annotations__})
"""Options of the contract that Keras's own layers do not have; a cell takes them under the contract's names."""

PLAIN_OPTIONS = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
    "activation",
    "recurrent_activation",
    "use_bias",
    "unit_forget_bias",
    "dropout",
    "recurrent_dropout",
    "seed",
)
"""Options of Keras's own layers whose values are plain."""

PARTS = {"kernel": "weight_ih", "recurrent": "weight_hh", "bias": "bias"}
"""Arrays that have an initialiser, a regulariser and a constraint, by the word in Keras's option names."""

KINDS = ("initializer", "regularizer", "constraint")
"""What each of them has, by the other word."""

SHOWN = (*PLAIN_OPTIONS, *(f"{part}_{kind}" for part in PARTS for kind in KINDS))
"""What Keras's layers show of their cell as attributes."""


class CellKeywords(CellOptions, total=False):
    """The options of the contract that a cell takes, and those of every Keras layer."""

    groups: int
    name: str | None
    trainable: bool
    dtype: Any


class LayerKeywords(CellKeywords, total=False):
    """The further options of a layer: those of its cell, and those of `keras.layers.RNN`."""

    kernel_initializer: Any
    recurrent_initializer: Any
    bias_initializer: Any
    unit_forget_bias: bool
    kernel_regularizer: Any
    recurrent_regularizer: Any
    bias_regularizer: Any
    activity_regularizer: Any
    kernel_constraint: Any
    recurrent_constraint: Any
    bias_constraint: Any
    dropout: float
    recurrent_dropout: float
    seed: int | None
    unroll: bool
    zero_output_for_mask: bool


def as_tuple(value: Any) -> Any:
    """Return lists as tuples, since Keras's files give lists back."""
    return tuple(value) if isinstance(value, list) else value


def first_shape(shape: Any) -> Shape:
    """Return the frames' shape from one shape, or from those of a tuple of inputs."""
    return tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else tuple(shape)


def data_format_of(given: str | None) -> str:
    """Return the data format of a layer; None takes Keras's setting."""
    data_format = given or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise SpecError(
            "data_format", expected="channels_last or channels_first", received=data_format, hint="Choose one of these."
        )
    return str(data_format)


def fixed_size(size: Shape) -> Shape:
    """Return the input size of pixel peepholes, or raise an error if it is not fixed."""
    if None in size:
        raise SpecError(
            "peephole",
            expected="a fixed input size with 'pixel'",
            received=f"frames of {tuple(size)}",
            hint="Fix the size of the input, or pass `peephole='channel'`.",
        )
    return tuple(size)


def activation_name(activation: Any) -> Any:
    """Return the contract's name of an activation given as Keras's name or function; None is linear."""
    name = "linear" if activation is None else getattr(activation, "__name__", activation)
    return "identity" if name == "linear" else name


def translate_error(error: ConvLSTMError) -> ConvLSTMError:
    """Return an error with Keras's names of options, as the user of a layer wrote them; quoted values stay."""

    def translate(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        return re.sub(rf"(?<!['\w])({'|'.join(KERAS_WORDS)})\b", lambda match: KERAS_WORDS[match[0]], text)

    parts = {name: translate(getattr(error, name)) for name in ("expected", "received", "hint")}
    return type(error)(translate(error.argument), **parts).with_traceback(error.__traceback__)


class DataFormat:
    """Frames and states between a layer's own data format and channels last, which the engines compute in."""

    rank: ClassVar[int]
    data_format: str

    def channels_last(self, shape: Any) -> tuple[Any, ...]:
        """Return a shape of one frame or state with its channels last."""
        shape = tuple(shape)
        return shape if self.data_format == "channels_last" else (shape[0], *shape[2:], shape[1])

    def user_format(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a channels-last shape of one frame or state in the cell's data format."""
        return shape if self.data_format == "channels_last" else (shape[0], shape[-1], *shape[1:-1])

    # Axes are counted from 0: Keras's exporter to ONNX writes negative axes as they are, which ONNX does not accept.

    def to_last(self, x: Tensor) -> Tensor:
        """Return frames or states, with any leading axes, with their channels last."""
        return (
            x
            if self.data_format == "channels_last"
            else keras.ops.moveaxis(x, len(x.shape) - 1 - self.rank, len(x.shape) - 1)
        )

    def to_user(self, x: Tensor) -> Tensor:
        """Return channels-last frames or states, with any leading axes, in the cell's data format."""
        return (
            x
            if self.data_format == "channels_last"
            else keras.ops.moveaxis(x, len(x.shape) - 1, len(x.shape) - 1 - self.rank)
        )
