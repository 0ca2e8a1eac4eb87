"""The ConvLSTM for JAX: pure functions, and the modules of Flax nnx, Flax linen and Haiku that call them."""

from convlstm.engine.jax.recurrence import State as State
from convlstm.jax import functional as functional
from convlstm.jax.weights import fresh as fresh
from convlstm.jax.weights import from_canonical as from_canonical
from convlstm.jax.weights import params_to_canonical as params_to_canonical
