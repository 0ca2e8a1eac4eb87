"""Files of named arrays, as run state is kept, and the digest they are known by."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np

from convlstm.errors import WeightsError
from convlstm.weights.checkpoint import load_arrays, save_arrays, weights_digest


def test_an_array_that_cannot_be_written_is_named(tmp_path: Path, refused) -> None:
    for array in (np.zeros(2, dtype=complex), np.array(["a"]), np.array([None])):
        with refused(WeightsError, "odd"):
            save_arrays(tmp_path / "m", {"odd": array}, {})
    assert not os.listdir(tmp_path)


def test_run_state_of_every_type_comes_back(tmp_path: Path) -> None:
    arrays = {
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.array(7, dtype=np.int64),
        "big": np.arange(3, dtype=">f8"),
        "half": np.array([1.5, -0.0, np.inf], dtype=np.float16),
        "bytes": np.arange(5, dtype=np.uint8),
        "flags": np.array([[True], [False]]),
        "strided": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    digest = save_arrays(tmp_path / "s", arrays, {"kind": "run", "progress": {"step": 3, "loss": None}})
    again, content, found = load_arrays(tmp_path / "s")
    assert found == digest
    assert content["progress"] == {"step": 3, "loss": None}
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].shape == array.shape


def test_the_digest_by_hand() -> None:
    arrays = {
        "b": np.arange(6, dtype=">i4").reshape(2, 3),
        "a": np.array(1.5, dtype=np.float64),
        "c": np.asfortranarray(np.arange(4, dtype=np.float32).reshape(2, 2)),
        "d": np.array([True, False]),
    }
    text = hashlib.sha256()
    text.update(b"a F64 \n" + struct.pack("<d", 1.5))
    text.update(b"b I32 2,3\n" + struct.pack("<6i", *range(6)))
    text.update(b"c F32 2,2\n" + struct.pack("<4f", 0, 1, 2, 3))
    text.update(b"d BOOL 2\n" + b"\x01\x00")
    assert weights_digest(arrays) == text.hexdigest()
    assert weights_digest(dict(reversed(arrays.items()))) == text.hexdigest()
