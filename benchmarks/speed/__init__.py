"""Measure time and memory of this package and of every other installed implementation (`make bench`)."""
