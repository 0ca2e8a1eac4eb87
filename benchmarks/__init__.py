"""Studies that measure this package and other implementations; they are not in the wheel."""
