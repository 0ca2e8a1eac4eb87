"""Models that know the time between frames, and models that do not, on data with uneven time steps."""
