"""Lines of other projects' code, as they run in each framework."""
