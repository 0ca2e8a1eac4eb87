"""How a random case runs in each framework."""
