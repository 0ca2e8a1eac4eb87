"""Studies that measure this package and its peers; none of it is in the wheel."""
