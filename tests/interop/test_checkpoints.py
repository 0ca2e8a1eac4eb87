"""Checkpoints of PyTorch: what is read, what is refused, and that nothing in them runs."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from convlstm.errors import DependencyError, WeightsError
from convlstm.interop import read_file
from convlstm.interop.containers import read_arrays

STATE = {
    "encoder_1_convlstm.conv.weight": torch.randn(12, 5, 3, 3, generator=torch.Generator().manual_seed(0)),
    "encoder_1_convlstm.conv.bias": torch.arange(12.0),
}


class Attack:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"model": state, "args": {"lr": 1e-3}, "loss": torch.tensor(0.5)},
        lambda state: {"net": state, "rng_state": torch.get_rng_state(), "optim_g": {"exp_avg": torch.ones(3)}},
        lambda state: {"checkpoint": 1, "model": {"state_dict": state}},
        lambda state: {"epoch": 2, "model_state_dict": state},
        lambda state: {key: torch.nn.Parameter(value) for key, value in state.items()},
    ],
    ids=["plain", "state_dict", "model", "net", "nested", "model_state_dict", "parameters"],
)
def test_state_dict_is_found(tmp_path, suffix, zipped, wrap):
    path = tmp_path / f"model{suffix}"
    torch.save(wrap(STATE), path, _use_new_zipfile_serialization=zipped)
    arrays = read_arrays(path)
    assert set(arrays) == set(STATE)
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, STATE[key].numpy())
    assert read_file(path, "ndrplz").notes.layers == ("encoder_1_convlstm",)


@pytest.mark.parametrize("wrap", [lambda content: content, lambda content: {"checkpoint": 1, "model": content}])
def test_state_dicts_side_by_side_are_all_read(tmp_path, wrap):
    torch.save(wrap({"net": {"a.weight": torch.ones(2, 2)}, "encoder": STATE}), tmp_path / "model.pth")
    arrays = read_arrays(tmp_path / "model.pth")
    prefix = "model." if "model.net.a.weight" in arrays else ""
    assert set(arrays) == {f"{prefix}net.a.weight", *(f"{prefix}encoder.{key}" for key in STATE)}
    converted = read_file(tmp_path / "model.pth", "ndrplz")
    assert converted.notes.layers == (f"{prefix}encoder.encoder_1_convlstm",)


def test_averaged_copy_of_a_model_is_not_taken_silently(refused, tmp_path):
    torch.save({"model": STATE, "ema": {key: 2 * value for key, value in STATE.items()}}, tmp_path / "model.pth")
    with refused(WeightsError, "layer"):
        read_file(tmp_path / "model.pth", "ndrplz")
    assert read_file(tmp_path / "model.pth", "ndrplz", layers=["ema"]).notes.layers == ("ema.encoder_1_convlstm",)


def test_low_precision_is_widened_and_views_are_read(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    torch.save({"a": base.bfloat16(), "b": base.half(), "c": base.T[1:, :2], "n": torch.tensor(3)}, tmp_path / "m.pt")
    arrays = read_arrays(tmp_path / "m.pt")
    assert {key: array.dtype.name for key, array in arrays.items()} == {
        **{"a": "float32", "b": "float16", "c": "float32", "n": "int64"}
    }
    np.testing.assert_array_equal(arrays["a"], base.numpy())
    np.testing.assert_array_equal(arrays["c"], base.numpy().T[1:, :2])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_widened(tmp_path, name):
    values = torch.tensor([0.5, -1.0, 2.0, 448.0])
    torch.save({"a": values.to(getattr(torch, name))}, tmp_path / "m.pt")
    array = read_arrays(tmp_path / "m.pt")["a"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values.to(getattr(torch, name)).float().numpy())


def test_conjugate_and_negative_views_are_read(tmp_path):
    view = torch.complex(torch.arange(3.0), torch.ones(3)).conj()
    for content, expected in ((view, np.arange(3) - 1j), (view.imag, -np.ones(3))):
        torch.save({"a": content}, tmp_path / "m.pt")
        np.testing.assert_array_equal(read_arrays(tmp_path / "m.pt")["a"], expected)


def test_types_that_numpy_lacks_are_refused_by_name(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(STATE | {"head.scale": torch.zeros(4, dtype=torch.uint8).view(torch.bits8)}, path)
    with pytest.raises(WeightsError, match=r"got head.scale, a torch.bits8 tensor"):
        read_arrays(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (lambda folder: {"state_dict": STATE, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (lambda folder: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda folder: {"state_dict": STATE, "x": Attack(folder / "ran")}, "posix.mkdir"),
        (lambda folder: {"epoch": 3}, "a dict without tensors by name"),
        (lambda folder: [torch.ones(3)], "a list without tensors by name"),
        (lambda folder: {"a": torch.eye(3).to_sparse()}, "sparse"),
    ],
    ids=["arguments", "model", "attack", "none", "list", "sparse"],
)
def test_other_objects_are_refused_in_one_line(tmp_path, content, name, zipped):
    path = tmp_path / "model.pth"
    torch.save(content(tmp_path), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as error:
        read_file(path, "ndrplz")
    text = str(error.value)
    assert name in text
    assert "\n" not in text
    assert "sparse" in name or "torch.save(model.state_dict()," in text
    assert not (tmp_path / "ran").exists()


def test_pickle_that_is_no_checkpoint_does_not_run(refused, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with refused(WeightsError, str(path)):
        read_arrays(path)
    assert not (tmp_path / "ran").exists()


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """Write the archive of a small checkpoint again, with another pickle."""
    torch.save({"a": torch.arange(12.0).reshape(3, 4)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            changed = change(data) if name.endswith("data.pkl") else data
            assert not name.endswith("data.pkl") or compression or changed != data
            archive.writestr(name, changed)


HUGE = b"J\x00\x00\x00\x40"  # 2**30 as the pickle writes it


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"K\x0c", HUGE),  # the storage
        lambda data: data.replace(b"K\x03K\x04\x86", HUGE + b"K\x04\x86"),  # the shape
        lambda data: data.replace(b"K\x0c", b"K\x20"),  # a storage a little longer than its record
        lambda data: data[: len(data) // 2],
    ],
    ids=["storage", "shape", "longer", "cut"],
)
def test_sizes_that_the_file_does_not_hold_are_refused(refused, tmp_path, change):
    path = tmp_path / "model.pth"
    rewritten(path, change)
    with refused(WeightsError, str(path)):
        read_arrays(path)


def test_expanded_and_compressed_checkpoints_are_refused(refused, tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.ones(1).expand(1 << 30)}, path)
    with refused(WeightsError, str(path)):
        read_arrays(path)
    rewritten(path, lambda data: data, zipfile.ZIP_DEFLATED)
    with refused(WeightsError, str(path)):
        read_arrays(path)


def test_damaged_checkpoints_are_refused(refused, tmp_path):
    torch.save(STATE, tmp_path / "whole.pth")
    whole, path = (tmp_path / "whole.pth").read_bytes(), tmp_path / "model.pth"
    for content in (b"", b"a text", whole[:300], whole[:-40]):
        path.write_bytes(content)
        with refused(WeightsError, str(path)):
            read_arrays(path)


@pytest.mark.parametrize("version", ["2.9.1+cu128", "2.5.1+cu121", "1.13.0"])
def test_old_pytorch_is_refused(refused, tmp_path, monkeypatch, version):
    torch.save(STATE, tmp_path / "model.pth")
    monkeypatch.setattr(torch, "__version__", version)
    with refused(DependencyError, "torch"):
        read_arrays(tmp_path / "model.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bits_are_refused_or_read_as_arrays(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a": torch.arange(12.0).reshape(3, 4)}}, path, _use_new_zipfile_serialization=zipped)
    whole, random, read = path.read_bytes(), np.random.default_rng(0), 0
    for place in random.integers(0, len(whole), 400):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with suppress(WeightsError):
            read += bool(read_arrays(path))
    assert 0 < read < 400


def test_mapping_that_contains_itself_is_refused(refused, tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "model.pth")
    with refused(WeightsError, str(tmp_path / "model.pth")):
        read_arrays(tmp_path / "model.pth")
