"""Canonical weights: names and shapes, initialisation, and model files."""
