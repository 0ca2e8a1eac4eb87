"""The convolutional LSTM layers for Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import keras

from convlstm.keras.cell import CELLS
from convlstm.keras.options import SHOWN, LayerKeywords
from convlstm.keras.rnn import RNN
from convlstm.spec.types import PerAxis


class ConvLSTM(RNN):
    r"""A convolutional LSTM layer, in place of `keras.layers.ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`.

    For each step t, with ∗ convolution and ∘ element-wise product:

        i   = σ(W_xi ∗ x_t + W_hi ∗ h_{t-1} + p_i ∘ c_{t-1} + b_i)
        f   = σ(W_xf ∗ x_t + W_hf ∗ h_{t-1} + p_f ∘ c_{t-1} + b_f)
        g   = tanh(W_xg ∗ x_t + W_hg ∗ h_{t-1} + b_g)
        c_t = f ∘ c_{t-1} + i ∘ g · δ(Δ_t)
        o   = σ(W_xo ∗ x_t + W_ho ∗ h_{t-1} + p_o ∘ c_t + b_o)
        h_t = o ∘ tanh(c_t)

    Peepholes p are off by default, and δ is 1 unless a `duration_strategy` is chosen. Source: Shi et al. (2015),
    Eq. 3, arXiv:1506.04214. Definition: `convlstm.reference.recurrence`. In addition to the options of Keras's layers
    it takes any spatial size, a stride together with a dilation, and every option of the contract. Recurrent dropout
    draws one mask for all gates, whereas Keras draws four.

    Abstract: use `ConvLSTM1D`, `ConvLSTM2D` or `ConvLSTM3D`.

    Args:
        filters: Channels of h and c.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is given.
        strides: Stride of the input convolution; h and c live on its output grid.
        padding: `valid`, `same`, or points per axis, of the input convolution.
        data_format: `channels_last` or `channels_first`; None takes Keras's setting.
        dilation_rate: Dilation of the input convolution.
        activation: φ, of candidate and output.
        recurrent_activation: σ, of the gates.
        use_bias: Whether the gates have a bias.
        return_sequences: Whether the outputs of all steps come back, or the last one alone.
        return_state: Whether h and c come back after the output.
        go_backwards: Whether the last step comes first; outputs are then in that order.
        stateful: Whether a call starts from the states that the call before ended with.
        masked_output: Output of a masked step: `hold` for the previous output, or `zero`.
        **options: Every further argument of Keras's layer, by name (initializers,
            regularizers, constraints, dropout, recurrent_dropout, seed, name, dtype), and every option of
            `ConvLSTMSpec` that applies to one layer (see `ConvLSTMCell`).

    Shapes:
        sequences: (batch, time, *space, channels), or a tuple with durations (batch, time) and gaps (batch, time)
        returns:   (batch, *grid, filters), or with return_sequences (batch, time, *grid, filters)

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> import numpy as np
        >>> layer = ConvLSTM2D(8, kernel_size=3, padding="same", return_state=True)
        >>> output, h, c = layer(np.zeros((2, 5, 16, 16, 1)))
        >>> tuple(output.shape), tuple(c.shape)
        ((2, 16, 16, 8), (2, 16, 16, 8))
    """

    rank: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: PerAxis,
        strides: PerAxis = 1,
        padding: str | PerAxis = "valid",
        data_format: str | None = None,
        dilation_rate: PerAxis = 1,
        activation: str | Callable[..., Any] | None = "tanh",
        recurrent_activation: str | Callable[..., Any] | None = "sigmoid",
        use_bias: bool = True,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        masked_output: str | None = None,
        **options: Unpack[LayerKeywords],
    ) -> None:
        of_cell: dict[str, Any] = {**options}
        names = ("name", "trainable", "activity_regularizer", "unroll", "zero_output_for_mask")
        of_layer = {name: of_cell.pop(name) for name in names if name in of_cell}
        cell = CELLS[self.rank](
            filters,
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            recurrent_activation,
            use_bias,
            name="conv_lstm_cell",
            **of_cell,
        )
        super().__init__(
            cell,
            return_sequences,
            return_state,
            go_backwards,
            stateful,
            masked_output=masked_output,
            dtype=of_cell.get("dtype"),
            **of_layer,
        )

    def __getattr__(self, name: str) -> Any:
        """Return an option of the cell, as Keras's layers show them."""
        if name in SHOWN:
            return getattr(self.cell, name)
        inherited = getattr(super(), "__getattr__", None)
        if inherited is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return inherited(name)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments the layer was made with."""
        config: dict[str, Any] = self.cell.get_config() | super().get_config()
        del config["cell"]
        regulariser = keras.regularizers.serialize(self.activity_regularizer)
        return config | {"activity_regularizer": regulariser}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ConvLSTM:
        """Return the layer that `get_config` describes, also of Keras's own layer of the same name."""
        return cls(**config)


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTM1D(ConvLSTM):
    """A convolutional LSTM over sequences of lines (batch, time, width, channels); arguments: `ConvLSTM`."""

    rank = 1


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTM2D(ConvLSTM):
    """A convolutional LSTM over sequences of fields (batch, time, height, width, channels); arguments: `ConvLSTM`."""

    rank = 2


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTM3D(ConvLSTM):
    """A convolutional LSTM over sequences of volumes (batch, time, depth, height, width, channels): `ConvLSTM`."""

    rank = 3
