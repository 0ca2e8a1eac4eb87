"""The files of an evaluation folder, whatever its forecasts are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from convlstm.errors import DataError, OutputError
from convlstm.files import check_writable, write_atomic, write_verified
from convlstm.nowcast.case_file import cf_cases
from convlstm.nowcast.cf_output import write_netcdf
from convlstm.nowcast.evaluation_details import attribution, choose_examples, example_cases, make_score_maps, quantity
from convlstm.nowcast.evaluation_digest import FILE_DIGESTS, SEAL, file_digest, seal
from convlstm.nowcast.evaluation_tables import make_tables
from convlstm.nowcast.evaluation_work import Work
from convlstm.verification.evaluation_folder import (
    CASE_SCORES_FILE,
    CASES_FILE,
    DESCRIPTION_FILE,
    FILES,
    SCORE_MAPS_FILE,
    SCORES_FILE,
)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Raise an error for a folder that has an evaluation, unless it is replaced, or whose files cannot be written."""
    if not overwrite:
        check_new_evaluation(folder)
    for name in FILES:
        check_writable(folder / name, folder=False)


def check_new_evaluation(folder: Path) -> None:
    """Raise an error for a folder that has an evaluation."""
    if (folder / DESCRIPTION_FILE).exists():
        raise OutputError(
            str(folder),
            expected="a folder without an evaluation",
            received=DESCRIPTION_FILE,
            hint="Choose another `--output`, or replace it with `--overwrite`.",
        )


def run_evaluation(
    work: Work,
    description: Mapping[str, Any],
    *,
    overwrite: bool,
    workers: int = 1,
    threads: int | None = None,
    on_case: Callable[[int, int], None],
) -> pd.DataFrame:
    """Score the cases that are not finished, write all files, and return the table of scores.

    The description has the title, the facts and what else is special to the evaluation. The other arguments are those
    of `convlstm.nowcast.evaluate.evaluate`.
    """
    with work.begun(overwrite=overwrite):
        work.run(workers=workers, threads=threads, on_case=on_case)
        return _write(work, description)


def _write(work: Work, description: Mapping[str, Any]) -> pd.DataFrame:
    """Write the files of the folder from the statistics of all cases, the description last."""
    cases, scoring, folder = work.cases, work.scoring, work.output
    units = cases.frames.channels[0].units
    statistics = work.statistics()
    tables = make_tables(statistics, cases.starts)
    # a reader refuses a folder without it, so that files of two evaluations are never read together
    (folder / DESCRIPTION_FILE).unlink(missing_ok=True)
    digests = {}
    for name, table in tables.items():
        csv = table.to_csv(index=False).encode()
        write_verified(folder / name, csv)
        digests[name] = hashlib.sha256(csv).hexdigest()
    shown = choose_examples(
        cases.start_steps,
        statistics.activity,
        cases.lead_seconds,
        cases.frames.time_step,
        tables[CASE_SCORES_FILE],
        scoring.thresholds,
        units=units,
        method=cases.names[0],
    )
    write_netcdf(folder / CASES_FILE, cf_cases(example_cases(cases, shown)))
    write_netcdf(folder / SCORE_MAPS_FILE, make_score_maps(cases.frames, statistics.map_sums()))
    content = {
        "units": units,
        "variable": cases.variable,
        "long_name": quantity(cases.frames),
        "attribution": attribution(cases.frames),
        "methods": list(cases.names),
        "thresholds": list(scoring.thresholds),
        "fss_window": scoring.fss_window,
        **description,
        FILE_DIGESTS: digests | {name: _stored_digest(folder / name) for name in (CASES_FILE, SCORE_MAPS_FILE)},
    }
    # the seal is of what a reader gets: JSON has no tuples and no numbers of NumPy
    content[SEAL] = seal(json.loads(json.dumps(content)))
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomic(folder / DESCRIPTION_FILE, lambda draft: draft.write_text(text, encoding="utf-8"))
    return tables[SCORES_FILE]


def _stored_digest(path: Path) -> str:
    """Return the digest of a NetCDF file that was just written, or raise an error if it is stored wrongly."""
    try:
        return file_digest(path)
    except DataError as error:
        raise OutputError(
            str(path),
            expected="the content that was written",
            received="other content when the file was read again",
            hint="Check the disk, or choose another path.",
        ) from error
