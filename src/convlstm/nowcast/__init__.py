"""Train on gridded sequences, forecast, and compare with baselines."""
