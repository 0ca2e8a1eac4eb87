"""The ConvLSTM for Flax linen: the layer, and a cell in place of `flax.linen.ConvLSTMCell`."""

from convlstm.jax.linen import ConvLSTM as ConvLSTM
from convlstm.jax.linen import ConvLSTMCell as ConvLSTMCell
