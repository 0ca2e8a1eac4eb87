"""The proofs of reliability with small counts, and each of them on something that is not reliable."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.torture import __main__ as program
from benchmarks.torture import calls, commands, concurrency, flips, fuzzing, kills, long_runs, machines, threads
from benchmarks.torture.commands import Fault, Outcome, compiler, serving
from benchmarks.torture.proof import Result

from convlstm.interop.containers import write_arrays
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights import checkpoint

needs_compiler = pytest.mark.skipif(compiler() is None, reason=calls.NO_COMPILER)


@needs_compiler
def test_a_training_that_is_killed_resumes_to_the_same_bytes(options):
    result = kills.kill_loop(options(3), "torch")
    assert (result.count, result.failures) == (3, [])
    assert result.figures["at file events"] == 2
    assert result.figures["runs"] >= 1


@needs_compiler
def test_calls_of_a_command_fail_and_lose_nothing(options):
    result = calls.fail_calls(options(6), "convert")
    assert (result.count, result.failures) == (6, [])
    assert result.figures["calls"] > 6


@needs_compiler
def test_a_command_that_writes_in_place_is_found(options, monkeypatch):
    source = (
        "import convlstm.interop.containers as module\n"
        "def in_place(path, write):\n    write(path)\n    return path\n"
        "module.write_atomic = in_place\n"
    )
    (options(1).work / "in_place.py").write_text(source)
    monkeypatch.setattr(calls, "LIBRARIES", (*calls.LIBRARIES, "in_place"))
    monkeypatch.syspath_prepend(options(1).work)
    monkeypatch.setenv("PYTHONPATH", str(options(1).work), prepend=":")
    result = calls.fail_calls(options(12), "convert")
    assert result.failed > 0
    assert any("neither the old nor the new output is whole" in text for text in result.failures)


@needs_compiler
def test_a_fault_hits_the_call_it_names(tmp_path):
    write_arrays(tmp_path / "w.npz", {"conv.weight": np.zeros((8, 3, 3, 3), np.float32)})
    words = ["convert", "../w.npz", "-o", "out.safetensors", "--from", "ndrplz"]
    with serving(tmp_path / "server", "convlstm.cli.app") as server:

        def run(*fault, **options):
            folder = tmp_path / "now"
            shutil.rmtree(folder, ignore_errors=True)  # a draft of a killed process would add calls
            folder.mkdir()
            return server.run(words, folder, Fault(*fault), **options)

        whole = run()
        assert (whole.code, whole.hit) == (0, ""), whole.err
        seen = [run(number, "kill") for number in range(1, whole.calls + 1)]
        assert {outcome.code for outcome in seen} == {-signal.SIGKILL}
        names = [outcome.hit.partition(" ")[0] for outcome in seen]
        assert names[0] == "mkdir"
        for first, second in (("open", "write"), ("write", "fsync"), ("fsync", "rename")):
            assert names.index(first) < names.index(second)
        full = run(names.index("write") + 1, "fail", 28)
        assert (full.code, full.problems) == (6, [])
        assert "No space left on device" in full.err
        flipped = run(names.index("write") + 1, "flip")
        assert (flipped.code, flipped.problems) == (6, [])
        assert "other bytes when the file was read again" in flipped.err
        assert run(kill_after=0.0).code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "err", "count"),
    [
        (0, "", 0),
        (6, "error: out: full.\n", 0),
        (-signal.SIGKILL, "half a li", 0),
        (1, "error: inside convlstm: OSError.\n", 1),
        (-signal.SIGSEGV, "", 2),
        (0, "UserWarning\n", 1),
        (6, "Traceback\nOSError\n", 1),
    ],
)
def test_problems_of_an_outcome(code, err, count):
    assert len(Outcome(code, "", err).problems) == count


def test_without_a_compiler_the_calls_are_skipped_with_a_reason(options, monkeypatch):
    monkeypatch.setattr(calls, "compiler", lambda: None)
    monkeypatch.setattr(commands.shutil, "which", lambda name: None)
    assert calls.fail_calls(options(1), "convert").skipped == calls.NO_COMPILER
    assert calls.change_bits(options(1)).skipped == calls.NO_COMPILER
    with pytest.raises(OSError, match="no C compiler"):
        commands.build_shim(options(1).work)


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    """A run folder with a model file in place of one that was trained."""
    arrays, content = fuzzing._model_content()
    run = RunFolder(tmp_path / "run")
    checkpoint.save_arrays(run.model, arrays, content)
    monkeypatch.setattr(flips, "trained", lambda work: run.path)
    return run


def test_changes_of_a_model_are_refused(options, small_run):
    result = flips.flip_model_or_state(options(100), "model")
    assert (result.count, result.failures) == (100, [])
    assert result.figures == {"refused": 100}


def test_a_reader_without_a_digest_is_found(options, small_run, monkeypatch):
    monkeypatch.setattr(flips, "check_intact", lambda path: path.read_bytes())
    monkeypatch.setattr(flips, "load_arrays", lambda path: ((), path.read_bytes()))
    assert flips.flip_model_or_state(options(10), "model").failed == 10


def test_proofs_that_fork_their_process():
    """The tests in `forking_proofs.py`, in a new process: the fork of one that has loaded JAX could wait for ever."""
    path = Path(__file__).with_name("forking_proofs.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_forecasts_in_threads_are_equal(options):
    result = threads.forecast_in_threads(options(1))
    assert (result.count, result.failures) == (threads.THREADS, [])
    assert result.figures["different inputs"] == threads.THREADS


def test_a_save_onto_a_mapped_file_changes_no_loaded_array(options, monkeypatch):
    assert concurrency.save_onto_mapped(options(3)).failures == []

    def in_place(path, content):
        with path.open("r+b") as file:
            file.write(content)

    monkeypatch.setattr(checkpoint, "write_verified", in_place)
    assert concurrency.save_onto_mapped(options(1)).failed > 0


def test_a_run_folder_survives_faults(options):
    result = machines.run_folder(options(10))
    assert result.count >= 10
    assert result.failures == []


def test_a_run_folder_whose_log_is_not_cut_is_found(options, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_state", RunFolder.read_state)
    result = machines.run_folder(options(200))
    assert result.failed == 1


@pytest.mark.parametrize("name", ["model", "sealed-model", "weights", "config"])
def test_random_inputs_are_read_or_refused(options, name):
    pytest.importorskip("atheris")
    result = fuzzing.fuzz(options(200), name)
    assert (result.count >= 200, result.failures) == (True, [])


def test_without_atheris_the_random_inputs_are_skipped_with_a_reason(options, monkeypatch):
    monkeypatch.setattr(fuzzing, "find_spec", lambda name: None)
    assert "pip install atheris" in fuzzing.fuzz(options(1), "model").skipped


@pytest.mark.parametrize("text", ["two\nlines", "x" * 3000])
def test_a_refusal_of_another_form_is_a_failure(text):
    error = checkpoint.WeightsError("file", expected="a", received="b", hint="C.")
    error.args = (text,)  # which the class itself would escape

    def read():
        raise error

    with pytest.raises(AssertionError, match="several lines or too long"):
        fuzzing._check(read)


def test_the_command_prints_a_line_and_keeps_earlier_results(tmp_path, capsys):
    output = tmp_path / "results.json"
    output.write_text('{"kills.torch": {"count": 7}}')
    words = ["concurrency.save-onto-mapped", "--count", "2", "--seed", "3", "--output", str(output)]
    assert program.main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok       concurrency.save-onto-mapped: 2 saves, 0 failures, seed 3, ")
    content = json.loads(output.read_text())
    assert content["kills.torch"] == {"count": 7}
    entry = content["concurrency.save-onto-mapped"]
    assert (entry["count"], entry["failed"], entry["seed"], entry["unit"]) == (2, 0, 3, "saves")
    assert entry["command"] == f"python -m benchmarks.torture {' '.join(words)}"


def test_a_proof_that_did_nothing_or_failed_is_exit_code_1(capsys):
    assert program.main(["concurrency.save-onto-mapped", "--minutes", "0"]) == 1
    assert "nothing was done in the time" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="expected one of kills, calls"):
        program.main(["unknown"])


def test_every_module_has_proofs(capsys):
    assert program.main(["--list"]) == 0
    names = {line.split(".")[0] for line in capsys.readouterr().out.splitlines()}
    assert names == set(program.MODULES)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_long_training_keeps_memory_and_open_files(options):
    result = long_runs.train_epochs(options(10))
    assert (result.count, result.failures) == (10, [])
    assert result.figures["MiB late"] > 100


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_long_training_whose_time_is_over_is_no_failure(options):
    result = long_runs.train_epochs(replace(options(10), end=0.0))
    assert (result.count, result.failures) == (0, [])


def test_a_training_whose_memory_or_open_files_grow_is_found():
    for samples, text in (
        ([(epoch, 100.0 + epoch, 5) for epoch in range(1, 101)], "the memory grew from 115.0 to 195.0 MiB"),
        ([(epoch, 100.0, epoch) for epoch in range(1, 101)], "the open files grew from 20 to 100"),
        ([(1, 100.0, 5)], "no early sample of the memory"),
    ):
        result = Result(count=100)
        long_runs._compare(samples, result)
        assert result.failures == [text]
