"""Moving MNIST with real digits: the protocols of OpenSTL and of Shi et al. (2015)."""
