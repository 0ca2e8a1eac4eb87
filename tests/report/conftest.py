"""A small synthetic evaluation: rain blobs that drift, forecasts that are the truth displaced, made-up scores."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from convlstm.report.results import read_results
from convlstm.report.scales import rgb

LEADS = np.array([5.0, 15.0, 30.0, 60.0])
INPUTS = np.array([-10.0, -5.0, 0.0])
SIZE = 24
# What the CSI at 30 minutes and 1 mm/h shall be; every other score follows from it by simple rules below.
SKILL = {"persistence": 0.30, "optical flow": 0.41, "convlstm": 0.45}


def blobs(minutes, case, size=SIZE):
    """Rain in mm/h: two round cells that drift eastward, one cell width in five minutes."""
    y, x = np.mgrid[:size, :size]
    first = 12.0 * np.exp(-((x - 6 - minutes / 5) ** 2 + (y - 8 - 3 * case) ** 2) / 10)
    second = 3.0 * np.exp(-((x - 14 - minutes / 5) ** 2 + (y - 16) ** 2) / 20)
    return (first + second).astype(np.float32)


def make_cases(methods, size=SIZE, offset=0.0, scale=1.0):
    observation = np.array([[blobs(t, case, size) for t in LEADS] for case in range(2)])
    inputs = np.array([[blobs(t, case, size) for t in INPUTS] for case in range(2)])
    forecast = np.array(
        [[[blobs(t * k / len(methods), case, size) for t in LEADS] for case in range(2)] for k in range(len(methods))]
    )
    return xr.Dataset(
        {
            "forecast": (("method", "case", "lead_time", "y", "x"), offset + scale * forecast),
            "observation": (("case", "lead_time", "y", "x"), offset + scale * observation),
            "inputs": (("case", "input_time", "y", "x"), offset + scale * inputs),
        },
        coords={
            "method": list(methods),
            "init_time": ("case", np.array(["2018-05-18T14:05", "2018-05-19T23:45"], dtype="datetime64[ns]")),
            "lead_time": LEADS,
            "input_time": INPUTS,
        },
    )


def make_scores(skill, thresholds):
    rows = []
    for method, level in skill.items():
        for lead in LEADS:
            decay = (30 / lead) ** 0.25

            def row(score, threshold, value, method=method, lead=lead):
                counts = (60, 20, 30, 890) if np.isfinite(threshold) else (np.nan,) * 4
                rows.append((method, lead, score, threshold, value, value - 0.04, value + 0.05, *counts, 24, 1000))

            for threshold in thresholds:
                value = level * decay / max(threshold, 1.0)
                row("csi", threshold, value)
                row("pod", threshold, value + 0.1)
                row("far", threshold, 1 - value)
                row("bias", threshold, 2 * value)
                row("fss", threshold, value + 0.2)
            row("rmse", np.nan, 1 - level * decay)
            row("mae", np.nan, (1 - level) / 2)
            row("mean_error", np.nan, level - 0.41)
    names = ["method", "lead_time", "score", "threshold", "value", "lower", "upper"]
    names += ["hits", "misses", "false_alarms", "correct_negatives", "cases", "pixels"]
    return pd.DataFrame(rows, columns=names)


def make_differences(scores):
    """Return the first method minus each other, with intervals of ±0.05."""
    first, *others = scores["method"].unique()
    ours = scores[scores["method"] == first].reset_index(drop=True)
    columns = ["method", "other", "lead_time", "score", "threshold", "difference", "lower", "upper", "block_length"]
    tables = [pd.DataFrame(columns=[*columns, "cases"])]
    for other in others:
        theirs = scores[scores["method"] == other].reset_index(drop=True)
        difference = ours["value"] - theirs["value"]
        bounds = {"difference": difference, "lower": difference - 0.05, "upper": difference + 0.05}
        key = ours[["method", "lead_time", "score", "threshold"]]
        tables.append(key.assign(other=other, **bounds, block_length=1.0, cases=24))
    return pd.concat(tables[1:] or tables)


def make_parts(skill, thresholds, name, labels):
    """Return scores by case or by day: those of a later label are lower."""
    rows = []
    for place, label in enumerate(labels):
        for method, level in skill.items():
            for lead in LEADS:
                key = {name: label, "method": method, "lead_time": lead}
                sizes = {"cases": 1, "pixels": 1000}
                counts = {"hits": 60, "misses": 20, "false_alarms": 30, "correct_negatives": 890}
                rows += [key | sizes | counts | {"threshold": t, "csi": level - 0.1 * place} for t in thresholds]
                rows.append(key | sizes | {"rmse": 1 - level, "mae": 0.3, "mean_error": 0.1})
    counted = ["hits", "misses", "false_alarms", "correct_negatives"]
    columns = [
        name,
        "method",
        "lead_time",
        "threshold",
        *counted,
        "csi",
        "rmse",
        "mae",
        "mean_error",
        "cases",
        "pixels",
    ]
    return pd.DataFrame(rows, columns=columns)


def make_score_maps(skill, thresholds):
    """Return maps of 6 × 6 blocks of 4 cells: CSI 0.25, 0.5, ... and RMSE 1, 2, ... in display order of the methods."""
    methods = sorted(skill, key=["convlstm", "optical flow", "persistence"].index)
    rank = xr.DataArray(np.arange(1.0, len(methods) + 1), dims="method", coords={"method": methods})
    shape = {"lead_time": LEADS, "threshold": list(thresholds), "y": np.arange(6), "x": np.arange(6)}
    by_threshold = rank.expand_dims(shape).drop_vars(["y", "x"])
    maps = xr.Dataset(
        {"csi": by_threshold / 4, "bias": by_threshold, "rmse": rank.expand_dims(lead_time=LEADS, y=6, x=6)}
    )
    return maps.assign(mean_error=-maps["rmse"]).assign_attrs(block_width=4)


@pytest.fixture
def make_evaluation(tmp_path):
    """Write an evaluation folder; keywords replace what `evaluation.json` says.

    With `parts` it has scores by case and day, and maps of scores.
    """

    def make(*, skill=SKILL, thresholds=(0.1, 1.0, 5.0), cases=None, scores=None, parts=False, **said):
        folder = tmp_path / "evaluation"
        folder.mkdir(exist_ok=True)
        described = {
            "title": "Synthetic drifting blobs",
            "units": "mm/h",
            "variable": "rain rate",
            "rain": True,
            "facts": {"Data": "synthetic, made by the tests", "Parameters": 1234},
            "attribution": "Made up for the tests.",
            "methods": list(skill),
            "thresholds": list(thresholds),
            "fss_window": 10,
            "training": [
                {"step": 10, "loss": 0.8, "validation_loss": None, "learning_rate": 0.001},
                {"step": 20, "loss": 0.5, "validation_loss": 0.6, "learning_rate": 0.001},
                {"step": 30, "loss": 0.4, "validation_loss": 0.55, "learning_rate": 0.001},
            ],
        } | said
        (folder / "evaluation.json").write_text(json.dumps(described))
        table = make_scores(skill, thresholds) if scores is None else scores
        table.to_csv(folder / "scores.csv", index=False)
        make_differences(make_scores(skill, thresholds)).to_csv(folder / "differences.csv", index=False)
        (make_cases(skill) if cases is None else cases).to_netcdf(folder / "cases.nc")
        if parts:
            starts = ["2018-05-18T14:05:00", "2018-05-18T20:00:00", "2018-05-19T23:45:00"]
            make_parts(skill, thresholds, "init_time", starts).to_csv(folder / "cases.csv", index=False)
            days = sorted({start[:10] for start in starts})
            make_parts(skill, thresholds, "day", days).to_csv(folder / "days.csv", index=False)
            make_score_maps(skill, thresholds).to_netcdf(folder / "score_maps.nc")
        return folder

    return make


@pytest.fixture
def shows():
    """Whether a still map has the colour of every value (y, x) under a scale."""

    def check(image, values, scale):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.source.split(",")[1]))).convert("RGB"))
        colours = np.array([rgb(colour) for colour in scale.palette()])
        return np.array_equal(pixels, colours[scale.classify(np.asarray(values))])

    return check


@pytest.fixture
def with_grid(synthetic_cases):
    """Give the cases coordinates: `km` of a projection, 2 km apart, or `degrees`, 0.1° apart; the south comes first."""

    def on(kind):
        if kind == "km":
            x = ("x", 100.0 + 2 * np.arange(SIZE), {"units": "km", "standard_name": "projection_x_coordinate"})
            y = ("y", 2.0 * np.arange(SIZE), {"units": "km", "standard_name": "projection_y_coordinate"})
            return synthetic_cases.assign_coords(x=x, y=y)
        latitude = ("y", 50.0 + 0.1 * np.arange(SIZE), {"units": "degrees_north"})
        longitude = ("x", -1.2 + 0.1 * np.arange(SIZE), {"units": "degrees_east"})
        return synthetic_cases.assign_coords(lat=latitude, lon=longitude)

    return on


@pytest.fixture
def make_results(make_evaluation):
    """Read what `make_evaluation` writes."""
    return lambda **said: read_results(make_evaluation(**said))


@pytest.fixture
def synthetic_cases():
    """The cases as a dataset, to be spoilt or enriched by a test."""
    return make_cases(SKILL)


@pytest.fixture
def synthetic_scores():
    """The table of scores, to be spoilt or enriched by a test."""
    return make_scores(SKILL, (0.1, 1.0, 5.0))


@pytest.fixture
def temperature(make_evaluation):
    """A variable that is no rain: kelvins, no thresholds, no training log."""
    cases = make_cases(SKILL, offset=280.0, scale=-1.0)
    return make_evaluation(
        thresholds=(), cases=cases, units="K", variable="t2m", rain=False, training=[], facts={}, attribution=""
    )
