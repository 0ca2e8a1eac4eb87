"""Proofs of reliability that fork their own process; `test_torture.py` runs them in a new one."""

from __future__ import annotations

import signal

import pytest
from benchmarks.torture import concurrency, flips


def test_a_process_that_ends_by_a_signal_is_seen(tmp_path):
    def work():
        yield "refused", ""
        signal.raise_signal(signal.SIGSEGV)
        yield "refused", ""

    assert flips._in_fork(work, tmp_path) == ([("refused", "")], -signal.SIGSEGV)


def test_a_reader_sees_whole_models_only(options):
    result = concurrency.read_model(options(20))
    assert (result.count, result.failures) == (20, [])
    assert result.figures["reads"] > 0


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_reader_sees_whole_forecasts_only(options, suffix):
    result = concurrency.read_forecast(options(10), suffix)
    assert (result.count, result.failures) == (10, [])


def test_a_torn_read_is_found(options, tmp_path):
    path = tmp_path / "file"

    def write(number):
        path.write_bytes(b"")  # in place: a reader can see it empty
        path.write_bytes(bytes([number]) * 2**22)

    result = concurrency._read_while_written(options(200), path, write, lambda file: hash(file.read_bytes()))
    assert result.failed > 0
