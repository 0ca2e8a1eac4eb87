"""The benchmark of forecasts in tiles, on a small grid."""

import re
import sys

from benchmarks import large_domain


def test_the_benchmark_prints_memory_and_differences(tmp_path, monkeypatch, capsys):
    words = ["--side", "128", "--tile", "64", "--cut", "96", "--overlaps", "0"]
    monkeypatch.setattr(sys, "argv", ["large_domain", str(tmp_path), *words])
    large_domain.main()
    out = capsys.readouterr().out
    seconds, megabytes = map(int, re.search(r"128² cells in tiles of 64: (\d+) s, (\d+) MiB", out).groups())
    assert seconds > 0
    assert 100 < megabytes < 4000
    exact, narrow = (float(re.search(rf"^\| {overlap} \| (\S+) \|", out, re.MULTILINE)[1]) for overlap in (80, 0))
    assert exact < 1e-5 < narrow
    assert float(re.search(r"middle, .*: (\S+)$", out.strip())[1]) < 1e-5
