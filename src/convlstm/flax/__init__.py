"""The ConvLSTM for Flax nnx; `convlstm.flax.linen` has the linen modules."""

from convlstm.engine.jax.recurrence import State as State
from convlstm.jax import functional as functional
from convlstm.jax.nnx.cell import ConvLSTMCell as ConvLSTMCell
from convlstm.jax.nnx.forecaster import Forecaster as Forecaster
from convlstm.jax.nnx.layer import ConvLSTM as ConvLSTM
from convlstm.jax.nnx.loading import load as load
from convlstm.jax.weights import fresh as fresh
from convlstm.jax.weights import from_canonical as from_canonical
from convlstm.jax.weights import load_canonical as load_canonical
from convlstm.jax.weights import params_to_canonical as params_to_canonical
from convlstm.jax.weights import save as save
from convlstm.jax.weights import to_canonical as to_canonical
