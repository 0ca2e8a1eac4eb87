"""Files of foreign weights: what is read, what is refused, and that it is refused before memory is taken."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from safetensors.numpy import save_file

from convlstm import ConvLSTMSpec
from convlstm.errors import OutputError, SpecError, WeightsError
from convlstm.interop import FORMATS, constructor_options, read_file, read_keras, write_file
from convlstm.interop.containers import read_arrays, write_arrays
from convlstm.interop.formats import WRITTEN
from convlstm.spec.presets import PRESETS
from convlstm.superblock import has_driver_information
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model, weights_digest

h5py = pytest.importorskip("h5py")

HUGE = (1 << 40, 1 << 10)


def layer(**options):
    spec = ConvLSTMSpec(**{"in_channels": 2, "hidden_channels": [4, 3], "kernel_size": 3, **options})
    return spec, {key: array.astype("f") for key, array in initialise(spec, 0).items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5"])
@pytest.mark.parametrize("layout", WRITTEN)
def test_written_layouts_come_back_with_the_same_digest(tmp_path, layout, suffix):
    spec, weights = layer()
    path = write_file(tmp_path / f"foreign{suffix}", layout, spec, weights)
    converted = read_file(path, layout, **constructor_options(FORMATS[layout].layout, spec))
    digest = save_model(tmp_path / "native.safetensors", spec, weights)
    assert save_model(tmp_path / "back.safetensors", converted.spec, converted.weights) == digest
    assert load_model(tmp_path / "back.safetensors").spec == converted.spec
    again = write_file(tmp_path / f"again{suffix}", layout, converted.spec, converted.weights)
    assert weights_digest(read_arrays(again)) == weights_digest(read_arrays(path))


def members(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"layers/conv_lstm2d/cell/vars/{name[1:]}", data=array)
    return h5py.File(path, "a")


def small(path):
    return members(path, _0=np.ones((3, 3, 1, 8), "f"), _1=np.ones((3, 3, 2, 8), "f"), _2=np.ones(8, "f"))


def external_link(file, folder):
    file["layers/conv_lstm2d/cell/vars/3"] = h5py.ExternalLink(str(folder / "other.h5"), "/secret")


def soft_link(file, folder):
    file["layers/again"] = h5py.SoftLink("/layers/conv_lstm2d")


def hard_circle(file, folder):
    file["layers/conv_lstm2d/again"] = file["layers"]


def virtual(file, folder):
    source = h5py.VirtualSource(str(folder / "other.h5"), "secret", shape=(4,))
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = source
    file.create_virtual_dataset("layers/virtual", layout)


def external_storage(file, folder):
    file.create_dataset("layers/external", (4,), "f4", external=[(str(folder / "secret.bin"), 0, 16)])


def never_written(file, folder):
    file.create_dataset("layers/bomb", HUGE, "f4")


def chunked(file, folder):
    file.create_dataset("layers/bomb", HUGE, "f4", chunks=(1 << 10, 1), compression="gzip")


def deep(file, folder):
    file.create_dataset("/".join("d" * 100), data=np.zeros(1, "f"))


@pytest.mark.parametrize(
    "attack", [external_link, soft_link, hard_circle, virtual, external_storage, never_written, chunked, deep]
)
def test_hdf5_that_is_more_than_plain_datasets(refused, tmp_path, attack):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.arange(4, dtype="f")
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    path = tmp_path / "model.weights.h5"
    with small(path) as file:
        attack(file, tmp_path)
    with refused(WeightsError, str(path)):
        read_file(path, "keras")


def test_hdf5_with_a_driver_information_block_is_refused(refused, tmp_path):
    path = tmp_path / "model.weights.h5"
    with small(path):
        pass
    content = bytearray(path.read_bytes())
    content[48:56] = bytes(8)  # the address of the block
    path.write_bytes(content)
    with refused(WeightsError, str(path)):
        read_file(path, "keras")
    assert has_driver_information(path)
    for size in range(48):  # cut off before the address
        path.write_bytes(content[:size])
        assert not has_driver_information(path)
        with refused(WeightsError, str(path)):
            read_file(path, "keras")


def test_hdf5_that_is_plain(tmp_path):
    path = tmp_path / "model.weights.h5"
    with small(path) as file:
        file["optimizer/vars/0"] = 3
        file["layers/seed"] = np.arange(2, dtype="u4")
        file["layers/name"] = "a text"
        file.attrs["config"] = "anything"
    assert read_file(path, "keras").spec.hidden_channels == (2,)


def npy(shape, data=b"", descr="<f4"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(HUGE), "arrays of the size in their headers"),
        (npy((1 << 28,), bytes(1 << 26)), "arrays of the size in their headers"),
        (npy(((1 << 26) + 1,), bytes((1 << 28) + 4)), "arrays that hardly compress"),
        (npy((1,), b"\x80\x04N.", "|O"), "which holds Python objects"),
        (npy("__import__('os')"), "an intact .npz"),
        (npy("("), "an intact .npz"),
        (b"no array", "an intact .npz"),
        (b"", "an intact .npz"),
    ],
    ids=["promise", "short", "packed", "objects", "code", "bracket", "text", "empty"],
)
def test_npz_that_is_no_file_of_plain_arrays(tmp_path, content, words):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv.weight.npy", content)
    with pytest.raises(WeightsError, match=words):
        read_file(path, "ndrplz")


def test_npz_with_a_damaged_member_of_lzma(tmp_path):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("conv.weight.npy", npy((1000,), np.random.default_rng(0).bytes(4000)))
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"an intact \.npz"):
        read_file(path, "ndrplz")


@pytest.mark.parametrize(
    "name", ["m.pt", "m.pth", "m.ckpt", "m.bin", "m.pkl", "m.keras", "m.msgpack", "m.npy", "m.txt", "m"]
)
def test_files_that_can_hold_code_are_never_opened(refused, tmp_path, name):
    os.mkfifo(tmp_path / name)  # opening it would hang
    with refused(WeightsError, str(tmp_path / name)):
        read_file(tmp_path / name, "ndrplz")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5"])
def test_damaged_and_missing_files(refused, tmp_path, suffix):
    whole = write_file(tmp_path / f"whole{suffix}", "keras", *layer()).read_bytes()
    cases = {"empty": b"", "text": b"{}", "head": whole[: len(whole) // 2], "none": None}
    for name, content in cases.items():
        path = tmp_path / f"{name}{suffix}"
        if content is not None:
            path.write_bytes(content)
        with refused(WeightsError, str(path)):
            read_file(path, "keras")
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in ("folder", "pipe"):
        with refused(WeightsError, str(tmp_path / f"{name}{suffix}")):
            read_file(tmp_path / f"{name}{suffix}", "keras")


def test_a_file_of_another_layout_says_which(tmp_path):
    path = write_file(tmp_path / "m.npz", "ndrplz", *layer())
    with pytest.raises(WeightsError, match=r"a layer of Haiku|haiku.*. Read it as ndrplz\."):
        read_file(path, "haiku")
    save_file({"fc.weight": np.zeros((2, 2), "f")}, tmp_path / "dense.safetensors")
    with pytest.raises(WeightsError, match=r"got fc.weight. Pass a file with the weights of a ConvLSTM\."):
        read_file(tmp_path / "dense.safetensors", "ndrplz")


def test_bfloat16_is_refused_in_one_line(refused, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "m.safetensors"
    save_torch({"cell_list.0.conv.weight": torch.zeros(8, 3, 3, 3, dtype=torch.bfloat16)}, path)
    with refused(WeightsError, str(path)):
        read_file(path, "ndrplz")


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_a_list_that_is_no_single_keras_layer(refused, count):
    with refused(WeightsError, "arrays"):
        read_keras([np.zeros((3, 3, 1, 8))] * count)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5"])
def test_flipped_bytes_are_refused_or_read_as_arrays(tmp_path, suffix):
    whole = write_file(tmp_path / f"whole{suffix}", "keras", *layer()).read_bytes()
    random, path = np.random.default_rng(0), tmp_path / f"flipped{suffix}"
    read = 0
    for place in random.integers(0, min(len(whole), 6000), 300):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with suppress(WeightsError):
            read += bool(read_arrays(path))
    assert read


def test_words_that_are_not_known(refused, tmp_path):
    spec, weights = layer()
    path = write_file(tmp_path / "m.npz", "ndrplz", spec, weights)
    with refused(SpecError, "layout"):
        read_file(path, "theano")
    with refused(SpecError, "layout"):
        write_file(path, "haiku", spec, weights)
    with refused(SpecError, "stride"):
        read_file(path, "ndrplz", stride=2)
    with refused(OutputError, str(tmp_path / "m.pt")):
        write_arrays(tmp_path / "m.pt", weights)
    with refused(OutputError, "/proc/m.npz"):
        write_arrays("/proc/m.npz", weights)
    forecaster = PRESETS["shi2015-5x5-256"]
    with refused(SpecError, "model"):
        write_file(tmp_path / "f.npz", "ndrplz", forecaster, {})
    with pytest.raises(WeightsError):
        write_file(tmp_path / "f.npz", "ndrplz", spec, {})


def archive(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)


def test_an_npz_that_unpacks_to_much_more_than_its_size_is_refused(refused, tmp_path):
    path = tmp_path / "model.npz"
    member = npy((1 << 24,), bytes(1 << 26))
    archive(path, {f"{n}.npy": member for n in range(5)})  # each is below the limit
    with pytest.raises(WeightsError, match=r"at most 10,000 arrays that hardly compress, got 5 arrays of 335,\d+,\d+"):
        read_file(path, "ndrplz")


def test_an_npz_whose_entries_share_their_bytes_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    content = np.random.default_rng(0).bytes(1 << 16)
    archive(path, {"a.npy": npy((1 << 14,), content)})
    with zipfile.ZipFile(path, "a") as file:
        (entry,) = file.infolist()
        for n in range(3):
            again = zipfile.ZipInfo(f"b{n}.npy")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(again, name, getattr(entry, name))
            file.filelist.append(again)
        file._didModify = True
    with pytest.raises(WeightsError, match="that hardly compress, got 4 arrays"):
        read_file(path, "ndrplz")


def test_arrays_without_number_are_refused(tmp_path, monkeypatch):
    archive(tmp_path / "model.npz", {f"{n}.npy": npy((1,), bytes(4)) for n in range(6)})
    monkeypatch.setattr("convlstm.interop.containers._MOST_MEMBERS", 5)
    with pytest.raises(WeightsError, match="at most 5 arrays that hardly compress, got 6 arrays"):
        read_file(tmp_path / "model.npz", "ndrplz")
    small(tmp_path / "model.weights.h5").close()
    monkeypatch.setattr("convlstm.interop.hdf5._MOST_OBJECTS", 5)
    with pytest.raises(WeightsError, match="at most 5 objects, got more"):
        read_file(tmp_path / "model.weights.h5", "keras")
