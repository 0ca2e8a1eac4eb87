"""The statistics of one case, from which all tables of an evaluation follow, and those of all cases together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.errors import DataError
from convlstm.nowcast.evaluation_forecasts import CaseForecasts, Probabilities
from convlstm.verification.decisions import COUNTS, Decisions, cuts_of, decision_counts
from convlstm.verification.probabilities import RELIABILITY_SUMS, check_range, reliability_sums
from convlstm.verification.score_maps import block_sums, block_width
from convlstm.verification.scorecard import CaseSums, FieldsOfMethod, fss_windows
from convlstm.verification.spectra import SpectrumSums, case_spectra

Arrays = dict[str, NDArray[Any]]

_FIELD_DIMS = ("init_time", "y", "x")
"""Lead times take the place of cases where the fields of one case are scored."""

_PROBABILITY_DIMS = ("init_time", "threshold", "y", "x")


@dataclass(frozen=True)
class Scoring:
    """What is computed of each case."""

    thresholds: tuple[float, ...]
    fss_window: int
    patch_size: int
    grid: tuple[int, int]

    @property
    def windows(self) -> list[int]:
        """The widths of the fractions skill score in cells."""
        return fss_windows(self.fss_window, self.grid)


def mean_activity(observed: NDArray[np.floating]) -> float:
    """Return the mean of the absolute values of some fields, with 0 for missing ones."""
    return float(np.nan_to_num(np.abs(observed)).mean())


def case_statistics(case: CaseForecasts, scoring: Scoring) -> tuple[Arrays, dict[str, Any]]:
    """Return the statistics of one case as arrays by name, and a description of them as JSON values."""
    observed = xr.DataArray(case.observation, dims=_FIELD_DIMS)
    by_method = [_method_sums(case, place, observed, scoring) for place in range(len(case.methods))]
    arrays: Arrays = {f"sums.{name}": np.stack([sums[name] for sums in by_method]) for name in by_method[0]}
    arrays["activity"] = np.array(mean_activity(case.observation))
    spectra = case_spectra(np.concatenate([case.observation[None], case.forecast]), case.last_frame, scoring.patch_size)
    arrays |= {"spectra.power": spectra.power, "spectra.products": spectra.products[0]}
    arrays["spectra.known"] = spectra.known[0]
    arrays |= {f"map.{name}": np.asarray(sums.values) for name, sums in _map_sums(case, scoring).items()}
    description: dict[str, Any] = {"probabilities": {}, "ensembles": {}}
    for method, source in case.probabilities.items():
        place = case.methods.index(method)
        description["probabilities"][method] = {"thresholds": list(source.thresholds), "members": source.members}
        arrays[f"reliability.{place}"], arrays[f"decisions.{place}"] = _probability_sums(source, observed)
    for method, sums in case.ensembles.items():
        description["ensembles"][method] = sums.sizes["rank"] - 1
        place = case.methods.index(method)
        arrays |= {f"ensemble.{place}.{name}": np.asarray(column.values) for name, column in sums.data_vars.items()}
    return arrays, description


def _map_sums(case: CaseForecasts, scoring: Scoring) -> xr.Dataset:
    """Return the sums of a case in blocks of cells, from which the maps of scores follow."""
    dims = ("init_time", "lead_time", "y", "x")
    coords = {"lead_time": np.arange(len(case.observation))}
    return block_sums(
        xr.DataArray(case.forecast[:, None], dims=("method", *dims), coords=coords | {"method": list(case.methods)}),
        xr.DataArray(case.observation[None], dims=dims, coords=coords),
        thresholds=scoring.thresholds,
        block=block_width(*scoring.grid),
        means={method: xr.DataArray(mean[None], dims=dims, coords=coords) for method, mean in case.means.items()},
    )


def _method_sums(case: CaseForecasts, place: int, observed: xr.DataArray, scoring: Scoring) -> Arrays:
    """Return the sums of a method, as `CaseSums.to_arrays`, with lead times in the last axis."""
    method = case.methods[place]
    probability = None
    mean = xr.DataArray(case.means[method], dims=_FIELD_DIMS) if method in case.means else None
    if case.probabilities:
        source = case.probabilities.get(method)
        if source is None:
            probability = xr.DataArray(np.empty(0), dims="threshold", coords={"threshold": np.empty(0)})
        else:
            coords = {"threshold": list(source.thresholds)}
            probability = xr.DataArray(source.values, dims=_PROBABILITY_DIMS, coords=coords)
    predicted = xr.DataArray(case.forecast[place], dims=_FIELD_DIMS)
    fields = FieldsOfMethod(predicted, observed, probability, mean)
    sums = fields.sums(method, np.nan, scoring.thresholds, scoring.fss_window)
    return dict(sums.to_arrays())


def _probability_sums(source: Probabilities, observed: xr.DataArray) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the sums of bins (threshold, sum, bin, lead_time), and the counts (threshold, count, lead_time, cut)."""
    bins, counts = [], []
    for place, threshold in enumerate(source.thresholds):
        chance = xr.DataArray(source.values[:, place], dims=_FIELD_DIMS)
        check_range(chance)
        sums = reliability_sums(chance, observed, threshold)
        bins.append(np.stack([sums[name].values for name in RELIABILITY_SUMS]))
        decisions = decision_counts(chance.values, observed.values, threshold, source.members)
        counts.append(np.stack([decisions[name].values for name in COUNTS]))
    return np.stack(bins), np.stack(counts)


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of all cases, in order of time, as the tables need them."""

    methods: tuple[str, ...]
    lead_times: NDArray[np.float64]  # minutes
    scoring: Scoring
    arrays: Mapping[str, NDArray[Any]]  # (case, ...)
    spectra: SpectrumSums
    maps: Arrays  # sums over all cases in blocks of cells
    probabilities: Mapping[str, Mapping[str, Any]]  # thresholds and members by method
    ensembles: Sequence[str]

    @classmethod
    def joined(
        cls,
        cases: Iterable[tuple[Arrays, Mapping[str, Any]]],
        methods: tuple[str, ...],
        lead_times: NDArray[np.float64],
        scoring: Scoring,
    ) -> Statistics:
        """Return the statistics of cases that come in order of time."""
        columns: dict[str, list[NDArray[Any]]] = {}
        maps: Arrays = {}
        first: Mapping[str, Any] = {}

        def spectra() -> Iterable[SpectrumSums]:
            nonlocal first
            for arrays, description in cases:
                first = first or description
                _check_members(first, description)
                for name, array in arrays.items():
                    if name.startswith("map."):
                        maps[name] = maps.get(name, 0) + array
                    elif not name.startswith("spectra."):
                        columns.setdefault(name, []).append(array)
                products, known = arrays["spectra.products"][None], arrays["spectra.known"][None]
                yield SpectrumSums(arrays["spectra.power"], products, known)

        joined_spectra = SpectrumSums.joined(spectra())
        return cls(
            methods,
            lead_times,
            scoring,
            {name: np.stack(values) for name, values in columns.items()},
            joined_spectra,
            maps,
            {method: first["probabilities"][method] for method in methods if method in first["probabilities"]},
            [method for method in methods if method in first["ensembles"]],
        )

    @property
    def activity(self) -> NDArray[np.float64]:
        """The mean of the absolute observed values of each case (case,)."""
        return self.arrays["activity"]

    def case_sums(self) -> list[CaseSums]:
        """Return the sums of every method and lead time, as `convlstm.verification.scorecard.case_sums`."""
        names = [name.removeprefix("sums.") for name in self.arrays if name.startswith("sums.")]
        all_sums = []
        for place, method in enumerate(self.methods):
            for lead, lead_time in enumerate(self.lead_times.tolist()):
                arrays = {name: np.moveaxis(self.arrays[f"sums.{name}"][:, place, ..., lead], 0, -1) for name in names}
                scoring = self.scoring
                all_sums.append(
                    CaseSums.from_arrays(
                        arrays, method, lead_time, scoring.thresholds, scoring.windows, scoring.fss_window
                    )
                )
        return all_sums

    def map_sums(self) -> xr.Dataset:
        """Return the sums of every method in blocks of cells, as `convlstm.verification.score_maps.block_sums`."""
        dims = ("method", "lead_time", "threshold", "y", "x")
        columns = {
            name.removeprefix("map."): (dims if values.ndim == len(dims) else (*dims[:2], *dims[3:]), values)
            for name, values in self.maps.items()
        }
        thresholds = np.asarray(self.scoring.thresholds, np.float64)
        coords = {"method": list(self.methods), "lead_time": self.lead_times, "threshold": thresholds}
        return xr.Dataset(columns, coords=coords)

    def reliability(self) -> Iterable[tuple[tuple[str, float, float], xr.Dataset]]:
        """Yield method, lead time and threshold with the result of `reliability_sums`."""
        for method, lead, place, threshold in self._probability_places():
            sums = self.arrays[f"reliability.{self.methods.index(method)}"][:, place, :, :, lead]
            columns = {name: (("init_time", "bin"), sums[:, n]) for n, name in enumerate(RELIABILITY_SUMS)}
            yield (method, float(self.lead_times[lead]), threshold), xr.Dataset(columns)

    def decisions(self) -> list[Decisions]:
        """Return the counts of the methods with probabilities by lead time and threshold."""
        results = []
        for method, lead, place, threshold in self._probability_places():
            counts = self.arrays[f"decisions.{self.methods.index(method)}"][:, place, :, lead]
            columns = {name: (("init_time", "cut"), counts[:, n]) for n, name in enumerate(COUNTS)}
            cuts = cuts_of(self.probabilities[method]["members"])
            results.append(Decisions(method, float(self.lead_times[lead]), threshold, cuts, xr.Dataset(columns)))
        return results

    def ensemble_sums(self) -> dict[str, xr.Dataset]:
        """Return the sums of each method with members, as `ensemble_sums`."""
        results = {}
        for method in self.ensembles:
            prefix = f"ensemble.{self.methods.index(method)}."
            columns = {
                name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)
            }
            dims = ("init_time", "lead_time", "rank")
            dataset = xr.Dataset({name: (dims[: array.ndim], array) for name, array in columns.items()})
            results[method] = dataset.assign_coords(lead_time=self.lead_times)
        return results

    def _probability_places(self) -> Iterable[tuple[str, int, int, float]]:
        """Yield each method with probabilities, lead time, and threshold by place and value."""
        for method, source in self.probabilities.items():
            for lead in range(len(self.lead_times)):
                for place, threshold in enumerate(source["thresholds"]):
                    yield method, lead, place, float(threshold)


def _check_members(first: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Raise an error for an ensemble whose number of members changes."""
    for method, members in first["ensembles"].items():
        received = description["ensembles"][method]
        if received != members:
            raise DataError(
                method,
                expected=f"{members} members, as in the first case",
                received=received,
                hint="Pass forecasts with one number of members.",
            )
