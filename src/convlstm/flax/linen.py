"""The ConvLSTM for Flax linen: the layer, and a cell in place of `flax.linen.ConvLSTMCell`."""

from convlstm.jax.linen import ConvLSTM, ConvLSTMCell
from convlstm.jax.linen_loading import from_flax_cell, load

__all__ = ["ConvLSTM", "ConvLSTMCell", "from_flax_cell", "load"]
