"""The cases to show, inflow of the optical flow, and the files of scores by case, day and place."""

import numpy as np
import pandas as pd
import xarray as xr

from convlstm.nowcast.baselines import inflow, optical_flow
from convlstm.nowcast.evaluate import evaluate
from convlstm.nowcast.evaluation_cases import Selection
from convlstm.nowcast.evaluation_details import choose_examples
from convlstm.verification.evaluation_folder import CASE_SCORES_FILE, DAY_SCORES_FILE, SCORE_MAPS_FILE

SECONDS = np.array([0.0, 300.0, 600.0])
LEADS = np.array([300.0, 900.0])


def moving_rain(step=2, size=40):
    """Rain cells that move `step` columns to the right in each frame."""
    random = np.random.default_rng(0)
    wide = np.kron(random.gamma(0.6, 3.0, (size // 4, size // 2)), np.ones((4, 4)))
    frames = [np.roll(wide, step * n, axis=1)[:, size // 2 : size // 2 + size] for n in range(3)]
    return np.stack(frames)[:, None].astype(np.float32)


def test_inflow_is_what_comes_from_outside_the_grid():
    unknown = inflow(moving_rain(), SECONDS, LEADS)
    assert unknown.shape == (2, 40, 40)
    for lead, columns in enumerate((2, 6)):
        share = unknown[lead].mean(axis=0)
        assert (share[: columns - 1] > 0.9).all()
        assert (share[columns + 2 : 34] < 0.1).all()


def test_inflow_has_cells_that_were_never_observed():
    inputs = moving_rain(step=0)
    inputs[:, :, 10:20, 10:20] = np.nan
    unknown = inflow(inputs, SECONDS, LEADS)
    assert unknown[0, 12:18, 12:18].all()
    assert not unknown[0, 25:, 25:].any()
    assert np.isfinite(optical_flow(inputs, SECONDS, LEADS)).all()


ENDS = np.arange(20)
ACTIVITY = np.where(ENDS == 12, 9.0, np.where(ENDS == 3, 5.0, 1.0))  # of twenty cases, one frame apart


def scores(csi, hits):
    return pd.DataFrame(
        {
            "method": "convlstm",
            "lead_time": 5.0,
            "threshold": 1.0,
            "csi": csi,
            "hits": hits,
            "misses": 0,
            "pixels": 1000,
        }
    )


def test_best_worst_and_the_most_active_cases_are_shown():
    csi, hits = np.full(20, 0.4), np.full(20, 100)
    csi[[5, 7, 9]] = 0.8, 0.1, 0.0
    hits[9] = 9  # an event in less than 1 % of the cells
    shown = choose_examples(ENDS, ACTIVITY, LEADS, 300.0, scores(csi, hits), [0.1, 1.0], units="mm/h")
    active = "among the most active"
    assert list(shown.items()) == [(0, active), (5, "best CSI"), (7, "worst CSI"), (12, active)]  # 3 overlaps with 5


def test_cases_overlap_by_time_where_lead_times_are_frames_apart():
    csi = np.linspace(0.9, 0.1, 20)  # the first and the last are the best and the worst
    case_scores = scores(csi, np.full(20, 100)).assign(lead_time=30.0)
    shown = choose_examples(ENDS, ACTIVITY, np.array([1800.0, 3600.0]), 600.0, case_scores, [1.0], units="mm/h")
    assert list(shown) == [0, 12, 19]  # all others have a frame in common with one of these


def test_without_a_score_only_the_most_active_ones_are_shown():
    shown = choose_examples(
        ENDS, ACTIVITY, LEADS, 300.0, scores(np.full(20, np.nan), np.zeros(20)), [1.0], units="mm/h"
    )
    assert set(shown.values()) == {"among the most active"}
    assert {3, 12} <= set(shown)


def test_the_files_have_every_case_day_and_block(make_nowcaster, rain_frames, tmp_path):
    table = evaluate(make_nowcaster(), rain_frames, tmp_path / "e", Selection(min_wet=0, max_cases=3))
    by_case = pd.read_csv(tmp_path / "e" / CASE_SCORES_FILE)
    by_day = pd.read_csv(tmp_path / "e" / DAY_SCORES_FILE)
    key = ["method", "lead_time", "threshold"]
    assert by_case["init_time"].nunique() == 3
    assert by_case["init_time"].str.match(r"2020-06-04T\d\d:\d\d:00$").all()
    assert by_day["day"].unique().tolist() == ["2020-06-04"]
    one_day = by_day.set_index(key)["csi"].dropna().sort_index()
    pooled = table[table["score"] == "csi"].set_index(key)["value"].dropna().sort_index()
    np.testing.assert_allclose(one_day, pooled)
    with xr.open_dataset(tmp_path / "e" / SCORE_MAPS_FILE, decode_timedelta=False) as opened:
        maps = opened.load()
    total = maps[["hits", "misses", "false_alarms"]].sum(("y", "x"))
    expected = table[(table["score"] == "csi")].set_index(key)["hits"].to_xarray()
    for index in expected.to_series().index:
        place = dict(zip(key, index, strict=True))
        assert float(total["hits"].sel(place)) == expected.sel(place)
    assert maps["rmse"].attrs["units"] == "mm/h"
