"""The comparison of devices: bytes in programs of XLA, parts of samples and tables."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.devices.collectives import bytes_per_device
from benchmarks.devices.divisions import EQUALITY, SCALING, SMALL, Division
from benchmarks.devices.table import tables

PROGRAM = """HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %swap = f32[10]{0} collective-permute(%p), channel_id=3, source_target_pairs={{0,1},{1,0}}
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %inside = (s32[], f32[4]{0}) while(%p), condition=%add, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %sums = (f32[8]{0}, /*index=1*/bf16[4,2]{1,0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}, to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %loop = (s32[], f32[4]{0}) while(%p), condition=%add, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %whole = f32[100]{0} all-gather(%p), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, dimensions={0}
  %rows = f32[16]{0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def test_operations_in_loops_count_once_per_turn() -> None:
    in_loop = 3 * 10 * 4 + 2 * (1 / 2) * (8 * 4 + 8 * 2)
    assert bytes_per_device(PROGRAM, 8) == 5 * in_loop + 7 / 8 * 400 + 3 / 4 * 64


def test_parts_of_a_sample_are_the_whole() -> None:
    whole = SMALL.sample(3)
    parts = [SMALL.sample(3, slice(first, first + 2)) for first in range(0, SMALL.windows, 2)]
    for name in ("inputs", "targets", "weight"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert 0.7 < whole.weight.mean() < 0.9
    assert not np.array_equal(SMALL.sample(4).inputs, whole.inputs)


@pytest.mark.parametrize(
    "division", [*EQUALITY, *SCALING], ids=lambda division: f"{division.framework} {division.name} {division.processes}"
)
def test_each_division_can_divide_its_batch(division: Division) -> None:
    mesh = division.options.get("mesh")
    if mesh is not None:
        assert mesh.count == division.count
        assert SMALL.windows % mesh.data == 0
        assert SMALL.rows % (mesh.space * SMALL.spec.patch_size) == 0


def test_tables_show_the_largest_difference_and_the_efficiency() -> None:
    common = {"framework": "torch", "kind": "data", "sent": 2e6}
    equality = [
        common | {"name": "one process", "losses": [0.5, 0.25]},
        common | {"name": "DDP, 2 processes", "losses": [0.5, 0.25 + 2e-6]},
    ]
    weak = [
        common
        | {"name": "DDP", "processes": n, "work": {"windows": 4 * n}, "seconds": 0.1 * n, "quartiles": [0.1, 0.3]}
        for n in (1, 2)
    ]
    text = tables({"equality": equality, "weak": weak})
    assert "| torch | DDP, 2 processes | 2.0e-06 | 2.0e-06 | 2000.0 |" in text
    assert "| DDP | 2 | 8 | 200 (100 to 300) | 40.0 | 0.50 | 2.00 |" in text
