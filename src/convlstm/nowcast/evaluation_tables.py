"""The tables of an evaluation folder, from the statistics of its cases."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import xarray as xr

from convlstm.nowcast.evaluation_details import part_tables
from convlstm.nowcast.evaluation_statistics import Statistics
from convlstm.verification import evaluation_folder as folder
from convlstm.verification.decisions import cut_table, event_decisions, roc_table, value_table
from convlstm.verification.differences import difference_table
from convlstm.verification.ensembles import ensemble_table, rank_table
from convlstm.verification.probabilities import reliability_table_of_sums
from convlstm.verification.scorecard import CaseSums, fss_table, score_table
from convlstm.verification.spectra import spectrum_tables_of_sums


def make_tables(statistics: Statistics, times: xr.DataArray) -> dict[str, pd.DataFrame]:
    """Return the tables of the evaluation folder by file name; the times are those of the starts of the cases."""
    sums, scoring = statistics.case_sums(), statistics.scoring
    spectra, fine_scales = spectrum_tables_of_sums(
        statistics.spectra,
        statistics.methods,
        statistics.lead_times,
        scoring.grid,
        patch_size=scoring.patch_size,
    )
    ensembles = statistics.ensemble_sums()
    return {
        folder.SCORES_FILE: score_table(sums),
        folder.DIFFERENCES_FILE: difference_table(sums, statistics.methods[0]),
        folder.FSS_FILE: fss_table(sums),
        folder.SPECTRA_FILE: spectra,
        folder.FINE_SCALES_FILE: fine_scales,
        folder.RELIABILITY_FILE: reliability_table_of_sums(statistics.reliability()),
        folder.ENSEMBLES_FILE: ensemble_table(ensembles),
        folder.RANKS_FILE: rank_table(ensembles),
        **part_tables(times, sums),
        **_decision_tables(statistics, sums),
    }


def _decision_tables(statistics: Statistics, sums: Sequence[CaseSums]) -> dict[str, pd.DataFrame]:
    """Return the tables of events at each probability; methods without probabilities have one point for comparison."""
    decisions = statistics.decisions()
    if decisions:
        others = [method for method in statistics.methods if method not in statistics.probabilities]
        decisions += event_decisions(sums, others)
    return {
        folder.CUTS_FILE: cut_table(decisions),
        folder.ROC_FILE: roc_table(decisions),
        folder.VALUES_FILE: value_table(decisions),
    }
