"""The ConvLSTM for Flax nnx."""
