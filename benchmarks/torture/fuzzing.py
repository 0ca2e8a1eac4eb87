"""Random inputs of the readers of untrusted files, guided by coverage (`pip install atheris`).

A reader returns a result, or raises a `ConvLSTMError` of one line; anything else is a failure. Each target runs in a
process of its own, because a fault in a library can end it. `python -m benchmarks.torture.fuzzing TARGET -runs=N` runs
one with the options of libFuzzer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.torture.proof import Options, Proof, Result

LONGEST_MESSAGE = 2500
LONGEST_SECONDS = 10  # of one input
MOST_MEMORY = 4096  # MiB
STARTS = 30.0  # seconds that loading and instrumenting may take, in addition to the time of the proof

Target = Callable[[bytes], None]


def _check(read: Callable[[], object]) -> None:
    """Call a reader, and raise an error for anything but a result or a refusal in one line."""
    from convlstm.errors import ConvLSTMError

    try:
        read()
    except ConvLSTMError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST_MESSAGE:
            raise AssertionError(f"message of several lines or too long: {text[:200]!r}") from error


def _of_file(folder: Path, name: str, read: Callable[[Path], object]) -> Target:
    """Return a target that writes its input to a file and reads it."""
    path = folder / name

    def target(data: bytes) -> None:
        path.write_bytes(data)
        _check(lambda: read(path))

    return target


def _model_content() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the content of a small model file of a forecaster."""
    from convlstm.nowcast.config import validate
    from convlstm.weights.canonical import initialise

    config = validate({"model": {"hidden_channels": [2]}, "data": {"input_length": 3, "horizon": 2}})
    spec = config.model.spec(1, 300.0)
    content = {"kind": "forecaster", "spec": spec.to_dict(), "extra": {"provenance": {"config": config.model_dump()}}}
    return initialise(spec, 0), content


def _places(node: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested JSON."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    return [place for key, value in items for place in [(*before, key), *_places(value, (*before, key))]]


def _changed(content: dict[str, Any], provider: Any) -> dict[str, Any]:
    """Return a copy in which the input chooses some values."""
    result = json.loads(json.dumps(content))
    for _ in range(provider.ConsumeIntInRange(1, 4)):
        places = _places(result)
        if not places:
            break
        *path, last = places[provider.ConsumeIntInRange(0, len(places) - 1)]
        node = result
        for key in path:
            node = node[key]
        number = provider.ConsumeIntInRange(-(2**40), 2**40)
        choices = (None, True, number, number / 7, [number] * 3, {}, [], "", provider.ConsumeUnicodeNoSurrogates(12))
        node[last] = choices[provider.ConsumeIntInRange(0, len(choices) - 1)]
    return result


def _sealed_model(folder: Path) -> tuple[Target, list[bytes]]:
    """Return a target that changes the content of a model and seals it again: digest and seal are right."""
    import atheris

    from convlstm.weights import checkpoint

    arrays, content = _model_content()
    path = folder / "model.safetensors"

    def target(data: bytes) -> None:
        changed = _changed(content, atheris.FuzzedDataProvider(data))
        plain = {"format": 1, "digest": checkpoint.weights_digest(arrays), **changed}
        sealed = plain | {"seal": checkpoint._seal(plain)}
        path.write_bytes(checkpoint.save(dict(arrays), metadata={"convlstm": json.dumps(sealed)}))
        _check(lambda: checkpoint.load_model(path))

    return target, []


def _model(folder: Path) -> tuple[Target, list[bytes]]:
    """Return a target that reads its input as a model file."""
    from convlstm.weights.checkpoint import load_model, save_arrays

    arrays, content = _model_content()
    save_arrays(folder / "seed.safetensors", arrays, content)
    return _of_file(folder, "model.safetensors", load_model), [(folder / "seed.safetensors").read_bytes()]


def _weights(folder: Path) -> tuple[Target, list[bytes]]:
    """Return a target that finds layers in its input as foreign weights; the first byte chooses the kind of file."""
    from convlstm.interop import find_layers
    from convlstm.interop.containers import read_arrays, write_arrays

    arrays = {"cell_list.0.conv.weight": np.zeros((8, 3, 3, 3), np.float32), "cell_list.0.conv.bias": np.zeros(8)}
    kinds, seeds = (".npz", ".safetensors", ".h5"), []
    for number, kind in enumerate(kinds):
        seeds.append(bytes([number]) + write_arrays(folder / f"seed{kind}", arrays).read_bytes())
    targets = [_of_file(folder, f"weights{kind}", lambda path: find_layers(read_arrays(path), None)) for kind in kinds]
    return lambda data: targets[data[0] % len(kinds)](data[1:]) if data else None, seeds


def _config(folder: Path) -> tuple[Target, list[bytes]]:
    """Return a target that reads its input as a configuration in YAML or TOML."""
    from convlstm.nowcast.config import Config
    from convlstm.nowcast.config_text import read_config, to_yaml

    yaml, toml = (_of_file(folder, f"config{suffix}", read_config) for suffix in (".yaml", ".toml"))
    seeds = [b"\0" + to_yaml(Config()).encode(), b"\1[data]\ncrop = 96\n", b"\0data: {input_length: 3, validation: 2}"]
    return lambda data: (toml if data[0] % 2 else yaml)(data[1:]) if data else None, seeds


def _data(folder: Path) -> tuple[Target, list[bytes]]:
    """Return a target that reads its input as data: NetCDF 3, or the metadata of a Zarr array."""
    import xarray as xr

    from convlstm.data import open_frames

    values = np.arange(48, dtype=np.float32).reshape(4, 3, 4)
    time = np.datetime64("2020-06-01T00:00", "ns") + np.arange(4) * np.timedelta64(300, "s")
    dataset = xr.Dataset(
        {"rain": (("time", "y", "x"), values, {"units": "mm/h"})},
        coords={"time": time, "y": ("y", np.arange(3.0), {"units": "km"}), "x": ("x", np.arange(4.0), {"units": "km"})},
    )
    dataset.to_netcdf(folder / "seed.nc", format="NETCDF3_CLASSIC", engine="scipy")
    dataset.to_zarr(folder / "rain.zarr", zarr_format=2, consolidated=False)
    metadata = folder / "rain.zarr" / "rain" / ".zarray"
    seeds = [b"\0" + (folder / "seed.nc").read_bytes(), b"\1" + metadata.read_bytes()]
    netcdf = _of_file(folder, "rain.nc", lambda path: open_frames(path).read(slice(0, 2)))

    def target(data: bytes) -> None:
        if not data or data[0] % 2 == 0:
            netcdf(data[1:])
            return
        metadata.write_bytes(data[1:])
        _check(lambda: open_frames(folder / "rain.zarr").read(slice(0, 2)))

    return target, seeds


TARGETS = {
    "model": (_model, 1_200_000),
    "sealed-model": (_sealed_model, 700_000),
    "weights": (_weights, 3_000_000),
    "config": (_config, 80_000),
    "data": (_data, 100_000),
}
"""Each target with its full number of inputs: five million together, most of them where an input takes little time."""


def fuzz(options: Options, name: str) -> Result:
    """Run a target in a process of its own."""
    if find_spec("atheris") is None:
        return Result(skipped="needs atheris (`pip install atheris`)")
    left = options.end - time.monotonic()
    words = [sys.executable, "-m", "benchmarks.torture.fuzzing", name, f"-runs={options.count}"]
    words += [f"-seed={options.seed + 1}", f"-timeout={LONGEST_SECONDS}", f"-rss_limit_mb={MOST_MEMORY}"]
    words += [f"-artifact_prefix={options.work}/", "-print_final_stats=1"]
    if left != float("inf"):
        words.append(f"-max_total_time={max(int(left - STARTS), 1)}")
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    numbers = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr) or re.findall(r"^#(\d+)", done.stderr, re.M)
    result = Result(count=int(numbers[-1]) if numbers else 0)
    result.figures["a second"] = round(result.count / (time.monotonic() - started))
    covered = re.findall(r"cov: (\d+)", done.stderr)
    result.figures["branches covered"] = int(covered[-1]) if covered else 0
    if done.returncode:
        text = done.stdout[-600:] + re.sub(r"(?m)^(#\d+|INFO|stat::).*\n", "", done.stderr)[-1500:]
        kept = [path.read_bytes()[:200] for path in options.work.iterdir() if path.is_file()]
        result.fail(f"exit code {done.returncode}: {' '.join(text.split())}; input {kept[:1]}")
    return result


def main() -> None:
    """Run one target with the options of libFuzzer."""
    import atheris

    name, *words = sys.argv[1:]
    with atheris.instrument_imports(include=["convlstm", "yaml", "zipfile", "tomllib", "numpy.lib"]):
        import convlstm.data
        import convlstm.interop
        import convlstm.nowcast.config_text
        import convlstm.weights.checkpoint  # noqa: F401
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        target, seeds = TARGETS[name][0](Path(folder))
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(seeds):
            (corpus / f"seed{number}").write_bytes(content)
        atheris.Setup([sys.argv[0], *words, str(corpus)], target)
        atheris.Fuzz()


PROOFS = {name: Proof(partial(fuzz, name=name), count, "inputs") for name, (_, count) in TARGETS.items()}

if __name__ == "__main__":
    main()
