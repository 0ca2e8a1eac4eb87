"""The tables of an evaluation folder, from the cases of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from convlstm.data import Frames
from convlstm.nowcast.evaluation_cases import Cases
from convlstm.nowcast.evaluation_details import part_tables
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification import evaluation_folder as folder
from convlstm.verification.decisions import cut_table, event_decisions, probability_decisions, roc_table, value_table
from convlstm.verification.differences import difference_table
from convlstm.verification.ensembles import ensemble_table, rank_table
from convlstm.verification.probabilities import PROBABILITY_DIMS, reliability_table
from convlstm.verification.scorecard import CaseSums, case_sums, fss_table, score_table
from convlstm.verification.spectra import spectrum_tables

DIMS = ("init_time", "lead_time", "y", "x")


def make_tables(
    nowcaster: Nowcaster, frames: Frames, cases: Cases, thresholds: Sequence[float], fss_window: int
) -> dict[str, pd.DataFrame]:
    """Return the tables of the evaluation folder by file name."""
    coords = {"init_time": cases.ends, "lead_time": cases.lead_seconds / 60.0}
    observation = xr.DataArray(cases.observation, dims=DIMS, coords=coords)
    forecast = xr.DataArray(cases.forecast, dims=("method", *DIMS), coords=coords | {"method": list(cases.methods)})
    probabilities, means = {}, {}
    for method, source in cases.probabilities.items():
        probability_coords = coords | {"threshold": list(source.thresholds)}
        probabilities[method] = xr.DataArray(source.values, dims=PROBABILITY_DIMS, coords=probability_coords)
        means[method] = xr.DataArray(source.means, dims=DIMS, coords=coords)
    last_frame = np.stack([frames.read(slice(end, end + 1))[0, 0] for end in cases.ends])
    sums = case_sums(
        forecast, observation, thresholds=thresholds, fss_window=fss_window, probabilities=probabilities, means=means
    )
    spectra, fine_scales = spectrum_tables(
        forecast,
        observation,
        xr.DataArray(last_frame, dims=("init_time", "y", "x")),
        patch_size=nowcaster.spec.patch_size,
    )
    return {
        folder.SCORES_FILE: score_table(sums),
        folder.DIFFERENCES_FILE: difference_table(sums, folder.METHODS[0]),
        folder.FSS_FILE: fss_table(sums),
        folder.SPECTRA_FILE: spectra,
        folder.FINE_SCALES_FILE: fine_scales,
        folder.RELIABILITY_FILE: reliability_table(probabilities, observation),
        folder.ENSEMBLES_FILE: ensemble_table(cases.ensembles),
        folder.RANKS_FILE: rank_table(cases.ensembles),
        **part_tables(frames, cases, sums),
        **_decision_tables(cases, probabilities, observation, sums),
    }


def _decision_tables(
    cases: Cases, probabilities: dict[str, xr.DataArray], observation: xr.DataArray, sums: Sequence[CaseSums]
) -> dict[str, pd.DataFrame]:
    """Return the tables of events at each probability; methods without probabilities have one point for comparison."""
    decisions = []
    for method, probability in probabilities.items():
        members = cases.probabilities[method].members
        decisions += probability_decisions(method, probability, observation, members=members)
    if decisions:
        decisions += event_decisions(sums, [method for method in cases.methods if method not in probabilities])
    return {
        folder.CUTS_FILE: cut_table(decisions),
        folder.ROC_FILE: roc_table(decisions),
        folder.VALUES_FILE: value_table(decisions),
    }
