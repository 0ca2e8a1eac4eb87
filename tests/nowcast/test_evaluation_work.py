"""Evaluations in parts: interrupted, continued, refused, spread over processes, and from files larger than memory."""

from dataclasses import replace
from functools import partial

import pytest
import xarray as xr

from convlstm.data import open_frames
from convlstm.data import stored as stored_module
from convlstm.data.stored import StoredArray
from convlstm.errors import DataError, OutputError
from convlstm.nowcast import evaluation_output
from convlstm.nowcast.evaluate import evaluate
from convlstm.nowcast.evaluation_cases import Selection
from convlstm.nowcast.evaluation_work import UNFINISHED
from convlstm.nowcast.fit import fit
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.run_folder import RunFolder
from convlstm.report.results import read_results

FEW = Selection(min_wet=0.0, max_cases=3, thresholds=(1.0,))


class StopError(Exception):
    """Ends an evaluation from within."""


def stop_after(count, done, of):
    if done == count:
        raise StopError


def tables(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".json")}


@pytest.fixture(scope="module")
def whole(event_run, rain_frames, tmp_path_factory):
    """The files of an evaluation with members that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "e"
    evaluate(load_nowcaster(event_run.model), rain_frames, folder, FEW, members=2)
    return folder


def test_an_interrupted_evaluation_continues_with_the_same_bits(whole, event_nowcaster, rain_frames, tmp_path):
    folder = tmp_path / "e"
    with pytest.raises(StopError):
        evaluate(event_nowcaster, rain_frames, folder, FEW, members=2, on_case=partial(stop_after, 2))
    assert not (folder / "evaluation.json").exists()
    parts = {path.name: path.stat().st_mtime_ns for path in (folder / UNFINISHED).glob("case-*")}
    assert sorted(parts) == ["case-00000.safetensors", "case-00001.safetensors"]
    calls = []
    evaluate(event_nowcaster, rain_frames, folder, FEW, members=2, on_case=lambda *done: calls.append(done))
    assert calls == [(2, 3), (3, 3)]
    assert tables(folder) == tables(whole)
    assert not (folder / UNFINISHED).exists()
    with xr.open_dataset(folder / "cases.nc") as ours, xr.open_dataset(whole / "cases.nc") as theirs:
        assert ours.identical(theirs)


def test_an_unfinished_evaluation_of_other_options_is_refused_or_replaced(make_nowcaster, rain_frames, tmp_path):
    folder, nowcaster = tmp_path / "e", make_nowcaster()
    few = replace(FEW, max_cases=2)
    with pytest.raises(StopError):
        evaluate(nowcaster, rain_frames, folder, few, on_case=partial(stop_after, 1))
    other = replace(few, thresholds=(2.0,))
    with pytest.raises(OutputError, match=r"one that differs in thresholds\. Choose another `--output`"):
        evaluate(nowcaster, rain_frames, folder, other)
    assert (folder / UNFINISHED / "case-00000.safetensors").exists()
    calls = []
    scores = evaluate(nowcaster, rain_frames, folder, other, overwrite=True, on_case=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    assert scores["threshold"].dropna().unique().tolist() == [2.0]


def test_files_of_two_evaluations_are_never_read_together(make_nowcaster, rain_frames, tmp_path, monkeypatch, refused):
    """A full disk while the files of an evaluation replace those of an older one with the same options."""
    folder, few = tmp_path / "e", replace(FEW, max_cases=2)
    evaluate(make_nowcaster(still=True), rain_frames, folder, few)
    other = make_nowcaster()

    def write(path, dataset):
        raise OutputError(str(path), expected="free space", received="none", hint="Free space.")

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_output, "write_netcdf", write)
        with pytest.raises(OutputError, match="free space"):
            evaluate(other, rain_frames, folder, few, overwrite=True)
    with refused(DataError, str(folder / "evaluation.json")):
        read_results(folder)
    evaluate(other, rain_frames, folder, few)
    evaluate(other, rain_frames, tmp_path / "alone", few)
    assert tables(folder) == tables(tmp_path / "alone")


def test_processes_give_the_same_bits_as_one(whole, event_nowcaster, rain_frames, tmp_path):
    pytest.importorskip("dask")
    calls = []
    options = {"workers": 2, "threads": 1, "on_case": lambda *done: calls.append(done)}
    evaluate(event_nowcaster, rain_frames, tmp_path / "e", FEW, members=2, **options)
    assert calls[-1] == (3, 3)
    assert tables(tmp_path / "e") == tables(whole)


def test_a_file_larger_than_memory_gives_the_same_model_and_scores(
    whole, event_run, event_sections, make_rain, rain_frames, tiny, contents, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored_module, "_BLOCK_BYTES", 8 * 4 * 22 * 18)
    path = tmp_path / "rain.zarr"
    make_rain().to_zarr(path, encoding={"rain": {"chunks": (3, 22, 18)}}, zarr_format=2)
    frames = open_frames(path, max_bytes=30_000)
    packed = frames.channels[0].packed
    assert isinstance(packed, StoredArray)
    run = RunFolder(tmp_path / "run")
    fit(tiny(**event_sections), frames, run)
    assert contents(run)["model.safetensors"] == contents(event_run)["model.safetensors"]
    evaluate(load_nowcaster(run.model), frames, tmp_path / "e", FEW, members=2)
    assert tables(tmp_path / "e") == tables(whole)
    assert 0 < packed._cache.held_bytes <= 30_000
