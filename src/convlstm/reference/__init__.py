"""The definition: the ConvLSTM in NumPy float64, in loops."""
