"""The numerical contract: what every implementation computes, in NumPy alone."""
