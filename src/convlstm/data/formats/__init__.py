"""Readers of files, one module for each kind; `kinds.py` has the table."""
