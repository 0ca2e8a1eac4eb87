"""The reference implementation of the ConvLSTM in NumPy float64."""
