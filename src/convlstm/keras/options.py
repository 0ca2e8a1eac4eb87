"""How Keras writes options, and what they are in the contract."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import keras

from convlstm.errors import ConvLSTMError, SpecError
from convlstm.keras.engines import Tensor
from convlstm.spec.options import KERAS_WORDS, LayerOptions

Shape = tuple[int | None, ...]

OF_KERAS = frozenset({"name", "trainable", "dtype", "activity_regularizer", "input_shape", "batch_input_shape"})
"""Arguments that every layer of Keras takes."""

CONTRACT_OPTIONS = (
    frozenset({"groups", *LayerOptions.__annotations__})
    - {"spatial_dims", "activation", "recurrent_activation", "direction", "merge", "masked_output"}
    - {"dropout", "input_dropout", "recurrent_dropout"}
)
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


def axes(value: Any) -> Any:
    """Return lists as tuples, since Keras's files give lists back."""
    return tuple(value) if isinstance(value, list) else value


def first_shape(shape: Any) -> Shape:
    """Return the frames' shape from one shape, or from those of a tuple of inputs."""
    return tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else tuple(shape)


def data_format_of(given: str | None) -> str:
    """Return the data format of a layer; None takes Keras's setting."""
    found = given or keras.config.image_data_format()
    if found not in ("channels_last", "channels_first"):
        raise SpecError("data_format", expected="channels_last or channels_first", received=found, hint="choose one.")
    return str(found)


def fixed_size(size: Shape) -> Shape:
    """Return the input size that pixel peepholes are made for, or refuse one that is not fixed."""
    if None in size:
        raise SpecError(
            "peephole",
            expected="a fixed input size with 'pixel'",
            received=f"frames of {tuple(size)}",
            hint="fix the size of the input, or use peephole='channel'.",
        )
    return tuple(size)


def word(activation: Any) -> Any:
    """Return the contract's word for an activation given as Keras's name or function; None is linear."""
    word = "linear" if activation is None else getattr(activation, "__name__", activation)
    return "identity" if word == "linear" else word


def in_keras_words(error: ConvLSTMError) -> ConvLSTMError:
    """Return an error with Keras's words, as the user of a layer wrote them; what came (quoted) stays as it is.

    Example:
        >>> str(in_keras_words(SpecError("stride", expected="1 with a dilation", received="'stride'", hint="drop it.")))
        "strides: expected 1 with a dilation_rate, got 'stride'; drop it."
    """

    def said(text: Any) -> Any:
        found = rf"(?<!['\w])({'|'.join(KERAS_WORDS)})\b"
        return re.sub(found, lambda word: KERAS_WORDS[word[0]], text) if isinstance(text, str) else text

    parts = {name: said(getattr(error, name)) for name in ("expected", "received", "hint")}
    return type(error)(said(error.argument), **parts).with_traceback(error.__traceback__)


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

    def to_last(self, x: Tensor) -> Tensor:
        """Return frames or states, with any leading axes, with their channels last."""
        return x if self.data_format == "channels_last" else keras.ops.moveaxis(x, -1 - self.rank, -1)

    def to_user(self, x: Tensor) -> Tensor:
        """Return channels-last frames or states, with any leading axes, in the cell's data format."""
        return x if self.data_format == "channels_last" else keras.ops.moveaxis(x, -1, -1 - self.rank)
