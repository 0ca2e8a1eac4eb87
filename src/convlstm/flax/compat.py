"""The call form of another ConvLSTM for JAX: a duration-aware linen cell that takes (frame, duration) pairs."""

from convlstm.jax.linen import DurationAwareConvLSTMCell

__all__ = ["DurationAwareConvLSTMCell"]
