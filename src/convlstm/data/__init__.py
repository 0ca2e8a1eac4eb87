"""Gridded sequences: read from files, made ready for a model, cut into windows and batches."""

from .sample import sample_path as sample_path
