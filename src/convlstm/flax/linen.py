"""The ConvLSTM for Flax linen: the layer, and a cell in place of `flax.linen.ConvLSTMCell`."""

from convlstm.jax.linen import ConvLSTM, ConvLSTMCell

__all__ = ["ConvLSTM", "ConvLSTMCell"]
