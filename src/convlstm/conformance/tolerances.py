"""The largest error of each type against the float64 reference."""

TOLERANCES = {"float64": (1e-12, 1e-11), "float32": (1e-5, 1e-4)}
"""Largest error of values and of derivatives, by type (docs/contract.md, Precision)."""
