"""Change single bits of files, and cut them: a reader refuses the file in one line, or nothing has changed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.torture.commands import serving
from benchmarks.torture.inputs import FRAMEWORK_MODULES, LIBRARIES, TRAINING, make_rain
from benchmarks.torture.proof import Options, Proof, Result
from convlstm.data.opening import opened
from convlstm.errors import ConvLSTMError
from convlstm.nowcast.content_digest import check_forecast
from convlstm.weights.checkpoint import check_intact, load_arrays

FULL_COUNT = 20_000  # half of them in headers, where a file has a header and a body
CUTS = 20  # one change in so many is a cut
BATCH = 200  # changes in one forked process
LONGEST_MESSAGE = 2500

Read = Callable[[Path], object]


def flip_model_or_state(options: Options, name: str) -> Result:
    """Change a model or a state: every change is refused, or the content is the same."""
    run = trained(options.work)
    path = run / f"{name}.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    random = options.random
    expected = load_arrays(path)[1:]  # content and digest
    result = Result(figures={"refused": 0})
    for number in options.numbers():
        damaged, place = _damaged(content, number, random, header)
        path.write_bytes(damaged)
        result.count += 1
        state, text = _read(path, check_intact, check_intact)
        if state == "read" and load_arrays(path)[1:] == expected:  # such as a number in another notation
            result.add("without effect")
        elif state == "refused":
            result.add("refused")
        else:
            result.fail(f"{place}: {state} {text}")
    return result


def flip_forecast(options: Options, suffix: str) -> Result:
    """Change a forecast: the change is refused, or the values are the same; no process ends by a signal."""
    run = trained(options.work)
    forecast = options.work / f"forecast{suffix}"
    with serving(options.work / "server", *LIBRARIES, FRAMEWORK_MODULES["torch"], faults=False) as commands:
        outcome = commands.run(["forecast", run, "rain.nc", "-o", forecast.name, "--threads", "1"], options.work)
        if outcome.code:
            raise RuntimeError(outcome.err)
    files = sorted(path for path in forecast.rglob("*") if path.is_file()) if forecast.is_dir() else [forecast]
    contents = {path: path.read_bytes() for path in files}
    sizes = np.array([len(content) for content in contents.values()], float)
    random, result = options.random, Result()
    changes = []
    for number in range(options.count):
        path = files[int(random.choice(len(files), p=sizes / sizes.sum()))]
        changes.append((path, *_damaged(contents[path], number, random)))
    values, attributes = partial(_values, forecast), partial(_attributes, forecast)
    expected = {"values": values(forecast), "attributes": attributes(forecast)}
    done = 0
    for _ in options.numbers():
        if done >= len(changes):
            break
        batch = changes[done : done + BATCH]
        answers, code = _in_fork(partial(_try_all, batch, contents, values, attributes, expected), options.work)
        for (path, _, place), (state, text) in zip(batch, answers, strict=False):
            result.add(state)
            if state not in ("refused", "without effect", "other attributes"):
                result.fail(f"{path.relative_to(options.work)}, {place}: {state} {text}")
        done += len(answers)
        if code:
            result.fail(f"{batch[len(answers)][2]}: exit code {code}")
            done += 1
        for path, content in contents.items():
            path.write_bytes(content)
    result.count = done
    return result


def _try_all(batch, contents, values: Read, attributes: Read, expected: dict[str, object]):
    """Yield what each change of a batch does."""
    for path, damaged, _ in batch:
        path.write_bytes(damaged)
        state, text = _read(path, values, values)
        if state == "read":
            state, text = "without effect", ""
            if values(path) != expected["values"]:
                state = "other values"
            elif attributes(path) != expected["attributes"]:
                state = "other attributes"
        path.write_bytes(contents[path])
        yield state, text


def _values(forecast: Path, path: Path) -> object:
    """Return the values of a forecast as bytes by name, after `convlstm check`."""
    check_forecast(forecast)
    with opened(forecast, 2**30) as dataset:
        return {str(name): (variable.dims, variable.values.tobytes()) for name, variable in dataset.variables.items()}


def _attributes(forecast: Path, path: Path) -> object:
    """Return the attributes of a forecast and of its variables, as text."""
    with opened(forecast, 2**30) as dataset:
        return str(dataset.attrs), {str(name): str(variable.attrs) for name, variable in dataset.variables.items()}


def _read(path: Path, read: Read, again: Read) -> tuple[str, str]:
    """Read a file; return `refused`, `read` or what is wrong, and the message."""
    try:
        read(path)
    except ConvLSTMError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST_MESSAGE:
            return "a message of several lines or too long:", text[:200]
        return "refused", text
    except Exception as error:
        return f"an error inside convlstm, {type(error).__name__}:", str(error)[:200]
    return "read", ""


def _damaged(content: bytes, number: int, random: np.random.Generator, header: int | None = None) -> tuple[bytes, str]:
    """Return a changed copy and a description: every second change is in the header, if there is one."""
    if number % CUTS == CUTS - 1:
        size = int(random.integers(0, len(content)))
        return content[:size], f"cut to {size} bytes"
    first, last = 0, len(content)
    if header is not None:
        first, last = (0, header) if number % 2 else (header, last)
    position, bit = int(random.integers(first, last)), int(random.integers(8))
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged), f"bit {bit} of byte {position}"


def _in_fork(work: Callable[[], Sequence[object]], folder: Path) -> tuple[list[tuple[str, str]], int]:
    """Return what a generator yields in a forked process, and its exit code; negative is a signal."""
    answers = folder / "answers.jsonl"
    child = os.fork()
    if child == 0:
        signal.alarm(600)
        try:
            with answers.open("w", encoding="utf-8") as file:
                for answer in work():
                    file.write(json.dumps(answer) + "\n")
                    file.flush()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    lines = answers.read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines], os.waitstatus_to_exitcode(status)


def trained(work: Path) -> Path:
    """Train a small model, and return the folder of the run."""
    make_rain(work / "rain.nc")
    with serving(work / "server", *LIBRARIES, FRAMEWORK_MODULES["torch"], faults=False) as commands:
        outcome = commands.run(["train", "rain.nc", "-o", "run", *TRAINING, "--threads", "1"], work)
    if outcome.code:
        raise RuntimeError(outcome.err)
    return work / "run"


PROOFS = {
    "model": Proof(partial(flip_model_or_state, name="model"), FULL_COUNT, "changes"),
    "state": Proof(partial(flip_model_or_state, name="state"), FULL_COUNT, "changes"),
    "forecast-netcdf": Proof(partial(flip_forecast, suffix=".nc"), 2000, "changes"),
    "forecast-zarr": Proof(partial(flip_forecast, suffix=".zarr"), 2000, "changes"),
}
