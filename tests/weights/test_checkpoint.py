"""Model files: the same bytes for the same content, and a refusal in one line for anything else."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_save

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_layers import random_case
from convlstm.errors import OutputError, WeightsError
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import Model, load_model, save_arrays, save_model, weights_digest

SPEC = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, peephole="channel")
EXTRA = {"units": "mm/h", "scale": 10.0, "names": ["ä", "b"], "none": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    save_model(target, SPEC, initialise(SPEC, 0), EXTRA)
    return target


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the buffer of a safetensors file."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: dict[str, Any], buffer: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + buffer


def sealed(content: dict[str, Any]) -> str:
    """Return a file's entry as a forger would write it, with a right seal."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    seal = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(content | {"seal": seal}, sort_keys=True, separators=(",", ":"))


def forged(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a file's JSON, with a right seal."""
    header, buffer = split(path.read_bytes())
    content = json.loads(header["__metadata__"]["convlstm"])
    del content["seal"]
    change(content)
    header["__metadata__"]["convlstm"] = sealed(content)
    path.write_bytes(join(header, buffer))


def test_what_is_written_is_read(path: Path) -> None:
    model = load_model(path)
    assert model.spec == SPEC
    assert model.extra == EXTRA
    weights = initialise(SPEC, 0)
    assert model.weights.keys() == weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(model.weights[key], array)
        assert model.weights[key].dtype == array.dtype
    assert model.digest == weights_digest(weights)


@pytest.mark.parametrize("seed", range(12))
def test_any_spec_comes_back(tmp_path: Path, seed: int) -> None:
    spec = random_case(seed).spec
    weights = {key: a.astype(np.float32) for key, a in initialise(spec, seed).items()}
    digest = save_model(tmp_path / "m", spec, weights)
    model = load_model(tmp_path / "m")
    assert model.spec == spec
    assert model.digest == digest == weights_digest(model.weights)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys; from convlstm import ConvLSTMSpec; from convlstm.weights.checkpoint import save_model;"
        "from convlstm.weights.canonical import initialise;"
        "s = ConvLSTMSpec(in_channels=2, hidden_channels=[3, 2], kernel_size=3, duration_strategy='mlp', norm='layer');"
        "save_model(sys.argv[1], s, initialise(s, 4), {'b': 1, 'a': [2.5, None]})"
    )
    for seed in ("1", "2"):  # dictionaries and sets iterate alike whatever the hash seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(tmp_path / seed)], check=True, env=environment, timeout=60)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_writing_again_what_was_read_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    model = load_model(path)
    save_model(tmp_path / "again", model.spec, model.weights, model.extra)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_every_damaged_byte_is_found(path: Path, refused) -> None:
    """No byte of the header, the options or the weights can change unseen."""
    data = path.read_bytes()
    random = np.random.default_rng(0)
    places = random.choice(len(data), 400, replace=False)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        if _same_json(data, bytes(damaged)):
            continue
        with refused(WeightsError, str(path)):
            load_model(path)


def _same_json(a: bytes, b: bytes) -> bool:
    """Return whether the damage says the same: 1E-06 for 1e-06 is the one such flip."""
    return a.lower() == b.lower() and b"1E-06" in b


def test_every_truncation_is_found(path: Path, refused) -> None:
    data = path.read_bytes()
    for size in {0, 1, 7, 8, 9, len(data) // 2, len(data) - 1, *range(10, len(data), 97)}:
        path.write_bytes(data[:size])
        with refused(WeightsError, str(path)):
            load_model(path)


def test_trailing_bytes_are_refused(path: Path, refused) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")
    with refused(WeightsError, str(path)):
        load_model(path)


def test_a_damaged_option_is_found_even_where_it_stays_valid(path: Path, refused) -> None:
    data = path.read_bytes()
    assert data.count(b'\\"scale\\":10.0') == 1
    path.write_bytes(data.replace(b'\\"scale\\":10.0', b'\\"scale\\":90.0'))
    with refused(WeightsError, str(path)):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(kind="optimiser"),
        lambda c: c.update(kind=["layer"]),
        lambda c: c.pop("kind"),
        lambda c: c.update(kind="forecaster"),
        lambda c: c.update(format=2),
        lambda c: c.update(format="1"),
        lambda c: c.pop("spec"),
        lambda c: c.update(spec=None),
        lambda c: c.update(spec=[]),
        lambda c: c["spec"].update(colour=1),
        lambda c: c["spec"].pop("hidden_channels"),
        lambda c: c["spec"].update(activation="os.system"),
        lambda c: c["spec"].update(num_layers=10**9),
        lambda c: c["spec"].update(forget_bias=10**400),
        lambda c: c["spec"].update(forget_bias=float("nan")),
        lambda c: c["spec"].update(peephole="pixel", input_size=[1, 1], padding=["valid"]),
        lambda c: c.pop("digest"),
        lambda c: c.update(digest=None),
    ],
)
def test_a_forged_entry_is_refused_in_one_line(path: Path, change: Any, refused) -> None:
    forged(path, change)
    with refused(WeightsError, str(path)):
        load_model(path)


@pytest.mark.parametrize("entry", ["", "{", "[]", "null", '"layer"', "[" * 100_000, '{"format":1}', "NaN"])
def test_an_entry_that_is_no_json_of_ours_is_refused(path: Path, entry: str, refused) -> None:
    header, buffer = split(path.read_bytes())
    for metadata in ({"convlstm": entry}, {"other": entry}):
        path.write_bytes(join(header | {"__metadata__": metadata}, buffer))
        with refused(WeightsError, str(path)):
            load_model(path)


def test_a_file_of_another_tool_is_refused(tmp_path: Path, refused) -> None:
    (tmp_path / "m").write_bytes(safetensors_save({"a": np.zeros(2)}))
    with refused(WeightsError, str(tmp_path / "m")):
        load_model(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"\x80\x04\x95 a pickle")
    with refused(WeightsError, str(tmp_path / "m")):
        load_model(tmp_path / "m")


def test_an_array_type_that_numpy_lacks_is_refused(path: Path, refused) -> None:
    header, buffer = split(path.read_bytes())
    key = "layers.0.forward.bias"
    header[key] |= {"dtype": "BF16", "shape": [4, 2, 4]}  # as many bytes as before
    path.write_bytes(join(header, buffer))
    with refused(WeightsError, str(path)):
        load_model(path)


def test_shapes_are_checked_before_any_array_is_read(path: Path, refused, monkeypatch: Any) -> None:
    def never(*_: object) -> None:
        raise AssertionError("arrays were read")

    monkeypatch.setattr("convlstm.weights.checkpoint.weights_digest", never)
    for channels in (3, 10**9):
        forged(path, lambda c, n=channels: c["spec"].update(hidden_channels=[n]))
        tracemalloc.start()
        began = time.perf_counter()
        with refused(WeightsError, str(path)):
            load_model(path)
        assert time.perf_counter() - began < 1.0
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


def test_a_huge_claimed_shape_is_refused_before_allocation(path: Path, refused) -> None:
    header, buffer = split(path.read_bytes())
    key = "layers.0.forward.bias"
    for offsets in (header[key]["data_offsets"], [0, 8 * 10**12]):
        changed = header | {key: {"dtype": "F64", "shape": [10**12], "data_offsets": offsets}}
        path.write_bytes(join(changed, buffer))
        with refused(WeightsError, str(path)):
            load_model(path)
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
    with refused(WeightsError, str(path)):
        load_model(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, refused) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for bad in (tmp_path, tmp_path / "pipe", tmp_path / "nothing", tmp_path / "dangling", Path("/dev/zero")):
        with refused(WeightsError, str(bad)):
            load_model(bad)


def test_weights_of_another_spec_are_not_written(tmp_path: Path, refused) -> None:
    weights = initialise(SPEC, 0)
    weights.pop("layers.0.forward.peephole")
    with refused(WeightsError, "layers.0.forward.peephole"):
        save_model(tmp_path / "m", SPEC, weights)
    assert not os.listdir(tmp_path)


def with_bias(bias: np.ndarray) -> dict[str, np.ndarray]:
    return {**initialise(SPEC, 0), "layers.0.forward.bias": bias}


WRONG_BIASES = {
    "NaN": np.where(np.arange(8).reshape(4, 2) == 5, np.nan, 1.0),
    "infinite": np.full((4, 2), -np.inf, np.float32),
    "integers": np.ones((4, 2), np.int32),
    "bools": np.ones((4, 2), bool),
}


@pytest.mark.parametrize("kind", WRONG_BIASES)
def test_weights_that_are_not_finite_are_refused(kind: str, tmp_path: Path, refused) -> None:
    target, arrays = tmp_path / "m", with_bias(WRONG_BIASES[kind])
    with refused(WeightsError, "layers.0.forward.bias"):
        save_model(target, SPEC, arrays)
    assert not target.exists()
    save_arrays(target, arrays, {"kind": "layer", "spec": SPEC.to_dict(), "extra": {}})  # as another tool might
    with refused(WeightsError, str(target)):
        load_model(target)
    with pytest.raises(WeightsError, match="bias"):
        load_model(target)


@pytest.mark.parametrize(("types", "expected"), [("<f8", "float64"), ("<f4", "float32"), ("<f2", "float32")])
def test_a_models_type_holds_every_weight(types: str, expected: str, tmp_path: Path) -> None:
    arrays = {key: array.astype(types) for key, array in initialise(SPEC, 0).items()}
    save_model(tmp_path / "m", SPEC, arrays)
    assert load_model(tmp_path / "m").dtype == expected
    arrays["layers.0.forward.bias"] = arrays["layers.0.forward.bias"].astype("<f8")
    save_model(tmp_path / "m", SPEC, arrays)
    assert load_model(tmp_path / "m").dtype == "float64"


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e6), ("torch.float16", 1e6), ("float32", 1e300)])
def test_a_type_in_which_a_weight_becomes_infinite_is_refused(dtype: str, value: float, refused) -> None:
    model = Model(SPEC, with_bias(np.full((4, 2), value)))
    with refused(WeightsError, "layers.0.forward.bias"):
        model.check_range(dtype)
    model.check_range("float64")


def test_nothing_is_lost_when_writing_fails(path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refused(OutputError, str(path)):
            save_model(path, SPEC, initialise(SPEC, 1))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_forecaster_comes_back(tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[2, 3], kernel_size=3)
    spec = ForecasterSpec(encoder=stack, patch_size=2, output_activation="softplus", residual=True)
    save_model(tmp_path / "m", spec, initialise(spec, 0))
    assert load_model(tmp_path / "m").spec == spec
