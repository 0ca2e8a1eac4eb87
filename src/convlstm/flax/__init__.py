"""The ConvLSTM for JAX: Flax nnx here, `convlstm.flax.linen`, `convlstm.flax.haiku`, and `convlstm.flax.functional`."""

from convlstm.engine.jax.recurrence import State as State
from convlstm.flax.cell import ConvLSTMCell as ConvLSTMCell
from convlstm.flax.forecaster import Forecaster as Forecaster
from convlstm.flax.layer import ConvLSTM as ConvLSTM
from convlstm.flax.loading import load as load
from convlstm.flax.weights import fresh as fresh
from convlstm.flax.weights import from_canonical as from_canonical
from convlstm.flax.weights import load_canonical as load_canonical
from convlstm.flax.weights import params_to_canonical as params_to_canonical
from convlstm.flax.weights import save as save
from convlstm.flax.weights import to_canonical as to_canonical
