"""The ConvLSTM for Haiku: the layer and the cells, used inside `hk.transform`."""

from convlstm.jax.haiku import ConvLSTM as ConvLSTM
from convlstm.jax.haiku import ConvLSTMCell as ConvLSTMCell
from convlstm.jax.haiku import DurationAwareConvLSTMCell as DurationAwareConvLSTMCell
from convlstm.jax.haiku_loading import from_params as from_params
from convlstm.jax.haiku_loading import load as load
from convlstm.jax.haiku_loading import to_params as to_params
