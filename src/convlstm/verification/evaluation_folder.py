"""The names in an evaluation folder, which `nowcast` writes and `report` reads: its files and its methods."""

from __future__ import annotations

SCORES_FILE = "scores.csv"
DIFFERENCES_FILE = "differences.csv"
FSS_FILE = "fss.csv"
SPECTRA_FILE = "spectra.csv"
FINE_SCALES_FILE = "fine_scales.csv"
# the next four have no rows if no method has probabilities
RELIABILITY_FILE = "reliability.csv"
CUTS_FILE = "cuts.csv"
ROC_FILE = "roc.csv"
VALUES_FILE = "economic_value.csv"
# the next two have no rows if no method has an ensemble
ENSEMBLES_FILE = "ensembles.csv"
RANKS_FILE = "ranks.csv"
# the scores of parts of the cases, and of parts of the grid
CASE_SCORES_FILE = "cases.csv"
DAY_SCORES_FILE = "days.csv"
SCORE_MAPS_FILE = "score_maps.nc"
CASES_FILE = "cases.nc"
METHOD_DIM = "forecast_method"
"""Dimension of the methods in `CASES_FILE`."""
DESCRIPTION_FILE = "evaluation.json"
TABLES = (
    *(SCORES_FILE, DIFFERENCES_FILE, FSS_FILE, SPECTRA_FILE, FINE_SCALES_FILE, RELIABILITY_FILE, CUTS_FILE, ROC_FILE),
    *(VALUES_FILE, ENSEMBLES_FILE, RANKS_FILE, CASE_SCORES_FILE, DAY_SCORES_FILE),
)
FILES = (*TABLES, SCORE_MAPS_FILE, CASES_FILE, DESCRIPTION_FILE)

METHOD_LABELS = {"convlstm": "ConvLSTM", "optical flow": "Optical flow", "persistence": "Persistence"}
"""Headings of the methods, the model first."""

METHODS = tuple(METHOD_LABELS)
BASELINES = METHODS[1:]
