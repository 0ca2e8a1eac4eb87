"""The names in an evaluation folder, which `nowcast` writes and `report` reads: its files and its methods."""

from __future__ import annotations

SCORES_FILE = "scores.csv"
DIFFERENCES_FILE = "differences.csv"
CASES_FILE = "cases.nc"
DESCRIPTION_FILE = "evaluation.json"
FILES = (SCORES_FILE, DIFFERENCES_FILE, CASES_FILE, DESCRIPTION_FILE)

METHOD_LABELS = {"convlstm": "ConvLSTM", "optical flow": "Optical flow", "persistence": "Persistence"}
"""Headings of the methods, the model first."""

METHODS = tuple(METHOD_LABELS)
BASELINES = METHODS[1:]
