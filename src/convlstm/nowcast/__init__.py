"""Training on gridded sequences, forecasting, and the rivals a forecast is held against."""
