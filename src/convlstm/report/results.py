"""Read and check an evaluation folder."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from pydantic import ValidationError

from convlstm.data.formats.netcdf import check_file
from convlstm.data.formats.sizes import check_size
from convlstm.data.spacing import is_south_first
from convlstm.errors import ConvLSTMError, DataError
from convlstm.report.description import Evaluation
from convlstm.verification.categorical import COUNTS
from convlstm.verification.evaluation_folder import (
    BASELINES,
    CASE_SCORES_FILE,
    CASES_FILE,
    CUTS_FILE,
    DAY_SCORES_FILE,
    DESCRIPTION_FILE,
    DIFFERENCES_FILE,
    ENSEMBLES_FILE,
    FINE_SCALES_FILE,
    FSS_FILE,
    METHOD_DIM,
    RANKS_FILE,
    RELIABILITY_FILE,
    ROC_FILE,
    SCORE_MAPS_FILE,
    SCORES_FILE,
    SPECTRA_FILE,
    VALUES_FILE,
)
from convlstm.verification.lead_times import LeadUnit, lead_unit
from convlstm.verification.main_score import main_lead_time, main_threshold

LARGEST_MAP = 400  # cells along one side; enough for a panel on a screen
MOST_VALUES = 12_000_000  # of all maps of the player: at most two bytes each in the page, and a tenth of that for rain
_MOST_BYTES = 4 * 2**30  # of a file of maps

_NUMBERS = ("value", "lower", "upper", *COUNTS, "cases", "pixels")
_KEY = ("method", "lead_time", "score", "threshold")
_COLUMNS = {"method": "str", "score": "str"} | dict.fromkeys(("lead_time", "threshold", *_NUMBERS), "float64")
_DIFFERENCE_COLUMNS = dict.fromkeys(("method", "other", "score"), "str") | dict.fromkeys(
    ("lead_time", "threshold", "difference", "lower", "upper", "block_length", "cases"), "float64"
)
# columns of the tables that a folder of an earlier version does not have, and those that identify a row
_FSS = ("method", "lead_time", "threshold", "window", "value", "lower", "upper", "cases")
_FSS_KEY = ("method", "lead_time", "threshold", "window")
_SPECTRA = ("method", "lead_time", "wavelength", "power", "cases")
_SPECTRA_KEY = ("method", "lead_time", "wavelength")
_FINE_SCALES = ("method", "lead_time", "score", "value", "lower", "upper", "cases")
_FINE_SCALES_KEY = ("method", "lead_time", "score")
_RELIABILITY = (
    *("method", "lead_time", "threshold", "bin_start", "bin_end", "probability", "frequency", "lower", "upper"),
    *("pixels", "cases"),
)
_RELIABILITY_KEY = ("method", "lead_time", "threshold", "bin_start")
_CUTS = (
    *("method", "lead_time", "threshold", "cut", "hits", "false_alarms", "pod", "pofd", "success_ratio"),
    "cases",
)
_CUTS_KEY = ("method", "lead_time", "threshold", "cut")
_ROC = ("method", "lead_time", "threshold", "value", "lower", "upper", "cases")
_ROC_KEY = ("method", "lead_time", "threshold")
_VALUES = (
    *("method", "lead_time", "threshold", "cost_loss_ratio", "value", "lower", "upper", "cut", "value_at_ratio"),
    "cases",
)
_VALUES_KEY = ("method", "lead_time", "threshold", "cost_loss_ratio")
_ENSEMBLES = ("method", "lead_time", "score", "value", "lower", "upper", "members", "cases")
_RANKS = ("method", "lead_time", "rank", "share", "lower", "upper", "members", "cases")
_RANKS_KEY = ("method", "lead_time", "rank")
_PARTS = ("method", "lead_time", "threshold", *COUNTS, "rmse", "mae", "mean_error", "cases", "pixels")
_SCORE_MAPS = ("csi", "bias", "rmse", "mean_error")
_DIMENSIONS = {
    "forecast": ("method", "case", "lead_time", "y", "x"),
    "observation": ("case", "lead_time", "y", "x"),
    "inputs": ("case", "input_time", "y", "x"),
}
_COORDINATES = ("method", "init_time", "lead_time", "input_time")
_HINT = "Run `convlstm evaluate` or `convlstm verify` again to write the folder."


@dataclass(frozen=True, eq=False)
class Results:
    """An evaluation folder in memory."""

    evaluation: Evaluation
    scores: pd.DataFrame  # one row per method, lead time (minutes), score and threshold
    cases: xr.Dataset  # as in `cases.nc`; the first row is the northern edge if the file gives the direction
    # the next tables are as in the files of these names, and None in a folder of an earlier version
    differences: pd.DataFrame | None
    fss: pd.DataFrame | None
    spectra: pd.DataFrame | None
    fine_scales: pd.DataFrame | None
    reliability: pd.DataFrame | None
    cuts: pd.DataFrame | None
    roc: pd.DataFrame | None
    economic_value: pd.DataFrame | None
    ensembles: pd.DataFrame | None
    ranks: pd.DataFrame | None
    by_case: pd.DataFrame | None
    by_day: pd.DataFrame | None
    score_maps: xr.Dataset | None  # on blocks of cells, in the order of the file
    blocks: Mapping[str, NDArray[np.intp]]  # y and x: the block of each row and column of a map pixel
    cells_per_pixel: int  # grid cells along one side of a map pixel; 1 unless the grid is very large

    @property
    def methods(self) -> list[str]:
        """Methods in display order: the models first, then the baselines."""
        methods = self.evaluation.methods
        models = [method for method in methods if method not in BASELINES]
        return models + [baseline for baseline in BASELINES if baseline in methods]

    @property
    def lead_times(self) -> NDArray[np.float64]:
        """Lead times of the scores in minutes, ascending."""
        return np.unique(self.scores["lead_time"].to_numpy(dtype=np.float64))

    @property
    def lead_unit(self) -> LeadUnit:
        """The unit of the lead times on the page."""
        return lead_unit(self.lead_times)

    @property
    def thresholds(self) -> list[float]:
        """Thresholds of the events, ascending; may be empty."""
        return sorted(self.evaluation.thresholds)

    @property
    def main_threshold(self) -> float | None:
        """The threshold whose CSI is the main score; None if that is RMSE."""
        evaluation = self.evaluation
        return main_threshold(self.thresholds, evaluation.units, rain=evaluation.is_rain_rate)

    @property
    def main_lead(self) -> float:
        """The lead time of the main score in minutes."""
        return main_lead_time(self.lead_times)

    @property
    def reasons(self) -> list[str]:
        """Why each case is shown, such as `best CSI`; empty texts in a folder of an earlier version."""
        if "reason" not in self.cases:
            return [""] * self.cases.sizes["case"]
        return [str(reason) for reason in self.cases["reason"].values]

    @property
    def known_scores(self) -> set[str]:
        """Names of the scores in the table."""
        return set(self.scores["score"])

    def select(self, score: str, threshold: float | None, method: str) -> pd.DataFrame:
        """Return the rows of one score of one method by lead time (minutes), ascending; may be empty."""
        table = self.scores
        at_threshold = table["threshold"].isna() if threshold is None else np.isclose(table["threshold"], threshold)
        rows = table[(table["score"] == score) & (table["method"] == method) & at_threshold]
        return rows.set_index("lead_time", drop=False).sort_index()

    def numbers(self, score: str, threshold: float | None, method: str, lead_time: float) -> dict[str, float]:
        """Return the numeric columns of one row of the table by name; all NaN if the table has no such row."""
        at = math.nan if threshold is None else threshold
        row = self._rows.get((method, _rounded(lead_time), score, _rounded(at)), (math.nan,) * len(_NUMBERS))
        return dict(zip(_NUMBERS, row, strict=True))

    @cached_property
    def _rows(self) -> dict[tuple[str, str, str, str], tuple[float, ...]]:
        """The numbers of each row of the table: reading them one by one from the table takes most of the time."""
        keys = [
            (str(method), _rounded(lead), str(score), _rounded(threshold))
            for method, lead, score, threshold in self.scores[list(_KEY)].itertuples(index=False)
        ]
        values = map(tuple, self.scores[list(_NUMBERS)].to_numpy(dtype=np.float64).tolist())
        return dict(zip(keys, values, strict=True))


def _rounded(value: float) -> str:
    return f"{value:.9g}"


def read_results(folder: str | Path) -> Results:
    """Read `evaluation.json`, `scores.csv` and `cases.nc` of one folder, and check them against each other."""
    folder = Path(folder)
    if folder.is_file():
        raise DataError(
            str(folder),
            expected="the folder of an evaluation",
            received="a file",
            hint=f"Pass the folder {folder.parent}."
            if (folder.parent / DESCRIPTION_FILE).exists()
            else "Pass the folder that `convlstm evaluate` or `convlstm verify` wrote.",
        )
    evaluation = _read_evaluation(folder / DESCRIPTION_FILE)
    scores = _read_scores(folder / SCORES_FILE, evaluation)
    cases = _read_cases(folder / CASES_FILE, evaluation)
    north_first = not is_south_first(cases.coords.to_dataset(), "y")
    cases = cases if north_first else cases.isel(y=slice(None, None, -1))
    factor = _coarsening(cases)
    score_maps = _read_score_maps(folder / SCORE_MAPS_FILE, evaluation)
    blocks = {} if score_maps is None else _blocks(folder / SCORE_MAPS_FILE, score_maps, cases.sizes)
    if blocks and not north_first:
        blocks["y"] = blocks["y"][::-1]
    if factor > 1:
        cases = cases.coarsen(y=factor, x=factor, boundary="pad").mean()
    return Results(
        evaluation,
        scores,
        cases,
        differences=_read_differences(folder / DIFFERENCES_FILE, scores),
        fss=_read_table(folder / FSS_FILE, _FSS, _FSS_KEY, scores),
        spectra=_read_table(folder / SPECTRA_FILE, _SPECTRA, _SPECTRA_KEY, scores),
        fine_scales=_read_table(folder / FINE_SCALES_FILE, _FINE_SCALES, _FINE_SCALES_KEY, scores),
        reliability=_read_table(folder / RELIABILITY_FILE, _RELIABILITY, _RELIABILITY_KEY, scores),
        cuts=_read_table(folder / CUTS_FILE, _CUTS, _CUTS_KEY, scores),
        roc=_read_table(folder / ROC_FILE, _ROC, _ROC_KEY, scores),
        economic_value=_read_table(folder / VALUES_FILE, _VALUES, _VALUES_KEY, scores),
        ensembles=_read_table(folder / ENSEMBLES_FILE, _ENSEMBLES, _FINE_SCALES_KEY, scores),
        ranks=_read_table(folder / RANKS_FILE, _RANKS, _RANKS_KEY, scores),
        by_case=_read_parts(folder / CASE_SCORES_FILE, "init_time", evaluation),
        by_day=_read_parts(folder / DAY_SCORES_FILE, "day", evaluation),
        score_maps=score_maps,
        blocks={name: places[::factor] for name, places in blocks.items()},
        cells_per_pixel=factor,
    )


def _coarsening(cases: xr.Dataset) -> int:
    """Return how many cells along one side make a map pixel, so that the maps are within the limits of the page."""
    side = math.ceil(max(cases.sizes["y"], cases.sizes["x"]) / LARGEST_MAP)
    values = sum(cases[name].size for name in _DIMENSIONS)
    return max(side, math.ceil(math.sqrt(values / MOST_VALUES)))


def _read_evaluation(path: Path) -> Evaluation:
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, "a readable JSON file", error) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _unreadable(path, "the description of an evaluation", f"{name}: {first['msg']}") from error


def _read_scores(path: Path, evaluation: Evaluation) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=_COLUMNS)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "a table of scores", error) from error
    _require(path, "column", _COLUMNS, table.columns)
    if table.duplicated(list(_KEY)).any():
        raise _unreadable(path, "one row per method, lead time, score and threshold", "the same row twice")
    _require(path, "method", evaluation.methods, table["method"].unique())
    scored = table.loc[table["score"] == "csi", "threshold"].to_numpy()
    _require(path, "threshold", [t for t in evaluation.thresholds if not np.isclose(scored, t).any()], [])
    _require(path, "score", ["rmse"], table["score"].unique())
    return table


def _read_differences(path: Path, scores: pd.DataFrame) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype=_DIFFERENCE_COLUMNS)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "a table of differences", error) from error
    _require(path, "column", _DIFFERENCE_COLUMNS, table.columns)
    rows = len(table[["lead_time", "score", "threshold"]].drop_duplicates()) * table["other"].nunique()
    lead_times = set(scores["lead_time"]) if rows else set()
    if len(table) != rows or set(table["lead_time"]) != lead_times or table["cases"].isna().any():
        raise _unreadable(path, "the same lead times, scores and thresholds for each method", f"{len(table)} rows")
    return table


def _read_table(path: Path, columns: Sequence[str], key: Sequence[str], scores: pd.DataFrame) -> pd.DataFrame | None:
    """Read a table that has every combination of the values of its key, once; None without the file."""
    if not path.exists():
        return None
    text = ("method", "score")
    try:
        table = pd.read_csv(path, dtype={column: "str" if column in text else "float64" for column in columns})
    except (OSError, ValueError) as error:
        raise _unreadable(path, "a table of an evaluation", error) from error
    _require(path, "column", columns, table.columns)
    if table.empty:
        return table
    # each method can have its own thresholds
    others = [column for column in key if column != "method"]
    parts = [part for _, part in table.groupby("method")] if "method" in key else [table]
    rows = sum(math.prod(part[column].nunique() for column in others) for part in parts)
    repeated = table.duplicated(list(key)).any()
    lead_times = set(scores["lead_time"])
    if len(table) != rows or repeated or set(table["lead_time"]) != lead_times or table["cases"].isna().any():
        raise _unreadable(path, f"one row for each combination of {', '.join(key)}", f"{len(table)} rows")
    return table


def _read_parts(path: Path, group: str, evaluation: Evaluation) -> pd.DataFrame | None:
    """Read the scores by case or by day; None without the file."""
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype={group: "str", "method": "str"})
    except (OSError, ValueError) as error:
        raise _unreadable(path, "a table of an evaluation", error) from error
    _require(path, "column", (group, *_PARTS), table.columns)
    _require(path, "method", evaluation.methods, table["method"].unique())
    if table.duplicated([group, "method", "lead_time", "threshold"]).any():
        raise _unreadable(path, f"one row for each {group}, method, lead time and threshold", "the same row twice")
    return table


def _read_score_maps(path: Path, evaluation: Evaluation) -> xr.Dataset | None:
    """Read the maps of scores; None without the file."""
    if not path.exists():
        return None
    maps = _read_netcdf(path)
    _require(path, "variable", _SCORE_MAPS, maps.variables)
    _require(path, "coordinate", ("method", "lead_time", "threshold"), maps.variables)
    _require(path, "method", evaluation.methods, maps["method"].values)
    return maps.transpose("method", "lead_time", "threshold", "y", "x", missing_dims="ignore")


def _blocks(path: Path, maps: xr.Dataset, sizes: Mapping[Hashable, int]) -> dict[str, NDArray[np.intp]]:
    """Return the block of each row and column of cells; the last block of either may be smaller than the others."""
    width = int(maps.attrs.get("block_width", 1))
    places = {name: np.arange(sizes[name]) // max(width, 1) for name in ("y", "x")}
    expected = {name: int(blocks[-1]) + 1 for name, blocks in places.items()}
    received = {name: maps.sizes[name] for name in places}
    if received != expected:
        raise _unreadable(path, f"blocks {tuple(expected.values())}, of {width} cells", tuple(received.values()))
    return places


def _read_cases(path: Path, evaluation: Evaluation) -> xr.Dataset:
    cases = _read_netcdf(path)
    if METHOD_DIM in cases.dims:  # a folder of an earlier version has the dimension `method`
        cases = cases.rename({METHOD_DIM: "method"})
    _require(path, "variable", _DIMENSIONS, cases.variables)
    _require(path, "coordinate", _COORDINATES, cases.variables)
    for name, dimensions in _DIMENSIONS.items():
        if set(cases[name].dims) != set(dimensions):
            raise _unreadable(path, f"{name} on {', '.join(dimensions)}", ", ".join(map(str, cases[name].dims)))
        if cases[name].size == 0:
            raise _unreadable(path, f"{name} with values", "none")
    if not isinstance(cases["init_time"].to_index(), (pd.DatetimeIndex, xr.CFTimeIndex)):
        raise _unreadable(path, "init_time as times", cases["init_time"].dtype)
    _require(path, "method", evaluation.methods, cases["method"].values)
    _check_probability(path, cases)
    return cases.transpose("method", "case", "input_time", "lead_time", ..., "y", "x", missing_dims="ignore")


def _read_netcdf(path: Path) -> xr.Dataset:
    """Return the content of a NetCDF file in memory."""
    try:
        check_file(path)
        with xr.open_dataset(path, engine="netcdf4", decode_timedelta=False) as opened:
            check_size(path, opened.nbytes, _MOST_BYTES)
            return opened.load()
    except (ConvLSTMError, MemoryError):
        raise
    except Exception as error:  # the libraries raise many types for a damaged file
        raise _unreadable(path, "a NetCDF file", error) from error


def _check_probability(path: Path, cases: xr.Dataset) -> None:
    """Raise an error for maps of probabilities that do not fit; a folder of an earlier version has none."""
    if "probability" not in cases:
        return
    dimensions = ("probability_method", "threshold", "y", "x")
    if set(cases["probability"].dims) != set(dimensions):
        received = ", ".join(map(str, cases["probability"].dims))
        raise _unreadable(path, f"probability on {', '.join(dimensions)}", received)
    _require(path, "coordinate", ("probability_method", "threshold", "probability_lead_time"), cases.coords)
    if float(cases["probability_lead_time"]) not in cases["lead_time"].values:
        raise _unreadable(path, "probability_lead_time as one of the lead times", cases["probability_lead_time"].values)


def _require(path: Path, kind: str, required: Iterable[object], present: Iterable[object]) -> None:
    present_names = {str(name) for name in present}
    missing = [str(name) for name in required if str(name) not in present_names]
    if missing:
        raise DataError(str(path), expected=f"the {kind} {missing[0]!r}", received="none", hint=_HINT)


def _unreadable(path: Path, expected: str, problem: object) -> DataError:
    if isinstance(problem, FileNotFoundError):
        problem = "no such file"
    line = " ".join(str(problem).split())
    return DataError(str(path), expected=expected, received=line, hint=_HINT)
