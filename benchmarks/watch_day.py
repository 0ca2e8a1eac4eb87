"""A day of `convlstm watch`, sped up: frames that are late, torn, missing or doubled, and a restart after kill -9.

Run `python -m benchmarks.watch_day` for a whole day of 288 frames. It prints checks and latencies, and exits with 1 if
a check fails. The frames are rain of the sample in the package, tiled to the size of the grid.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from convlstm.data import open_frames, sample_path
from convlstm.nowcast import Nowcaster

START = np.datetime64("2018-05-20T00:00", "ns")
STEP = np.timedelta64(5, "m")
INPUTS = 6
CATCH_UP = 12  # frames; the default of --catch-up is an hour
TOLERANCE = 1e-5


@dataclass
class Plan:
    """When each part of each frame arrives, in intervals from the start."""

    frames: int
    half: dict[int, float] = field(default_factory=dict)  # time of the first half of a torn file
    whole: dict[int, float] = field(default_factory=dict)  # time of the complete file
    copies: dict[int, float] = field(default_factory=dict)  # time of a second file with the same frame
    kind: dict[int, str] = field(default_factory=dict)

    @property
    def due(self) -> set[int]:
        """The frames from which a forecast must be made: in time by less than an hour, with half of their inputs.

        After the last frame of the day no later one comes, so that a frame that is late then is still in time.
        """
        in_time = {n for n, at in self.whole.items() if min(at, self.frames - 1) - n < CATCH_UP}
        return {n for n in in_time if 2 * len(in_time & set(range(n - INPUTS + 1, n + 1))) >= INPUTS}


def make_plan(frames: int, seed: int) -> Plan:
    """Return a plan in which one frame in five is not as it should be."""
    random, plan = np.random.default_rng(seed), Plan(frames)
    kinds = ["on time", "late", "torn", "missing", "abandoned", "double", "too late"]
    for n in range(frames):
        # the first and the last frames are on time, so that every short plan has forecasts
        chance = [0.80, 0.06, 0.06, 0.03, 0.02, 0.02, 0.01]
        kind = "on time" if n < 3 or n == frames - 1 else str(random.choice(kinds, p=chance))
        plan.kind[n] = kind
        delay = {"late": random.uniform(1.2, 3.5), "torn": random.uniform(0.5, 2.5), "too late": CATCH_UP + 3.5}
        if kind in ("torn", "abandoned"):
            plan.half[n] = float(n)
        if kind not in ("missing", "abandoned"):
            plan.whole[n] = n + delay.get(kind, 0.0)
        if kind == "double":
            plan.copies[n] = n + 0.5
    return plan


def make_frames(folder: Path, frames: int, size: int) -> list[Path]:
    """Write one file per frame, and return their paths."""
    sample = open_frames(sample_path())
    values = sample.read(slice(0, frames))[:, 0]
    repeat = -(-size // values.shape[-1])
    tiled = np.tile(values, (1, repeat, repeat))[:, :size, :size]
    axis = np.arange(size, dtype=np.float64)
    folder.mkdir(parents=True)
    paths = []
    for n, rain in enumerate(tiled):
        dataset = xr.Dataset(
            {"rain": (("time", "y", "x"), rain[None], {"units": "mm/h", "standard_name": "rainfall_rate"})},
            coords={
                "time": ("time", [START + n * STEP]),
                "y": ("y", axis, {"units": "km", "standard_name": "projection_y_coordinate"}),
                "x": ("x", axis, {"units": "km", "standard_name": "projection_x_coordinate"}),
            },
        )
        paths.append(folder / f"rain_{n:04}.nc")
        dataset.to_netcdf(paths[-1], encoding={"rain": {"zlib": True}})
    return paths


class Feed:
    """Copies files into the watched folder when the plan says so.

    On a busy machine the clock of the plan waits for forecasts that have been due for five intervals: an hour of the
    plan must not pass while the machine does other work.
    """

    def __init__(self, plan: Plan, files: list[Path], work: Path, interval: float) -> None:
        self._plan, self._files, self._work, self._interval = plan, files, work, interval
        self._incoming = work / "incoming"
        parts = [(at, n, "half") for n, at in plan.half.items()]
        parts += [(at, n, "whole") for n, at in plan.whole.items()]
        parts += [(at, n, "copy") for n, at in plan.copies.items()]
        self._parts = sorted(parts)
        self._started = time.monotonic()

    def run_until(self, interval: float, *, paced: bool = True) -> None:
        """Deliver what arrives until a time, in intervals from the start."""
        while self._parts and self._parts[0][0] <= interval:
            at, n, part = self._parts.pop(0)
            if paced:
                self._wait_for_watch(at)
            time.sleep(max(0.0, self._started + at * self._interval - time.monotonic()))
            content = self._files[n].read_bytes()
            name = self._files[n].name if part != "copy" else f"copy_{self._files[n].name}"
            # not renamed into place: a reader can see it while it is written
            (self._incoming / name).write_bytes(content[: len(content) // 2] if part == "half" else content)

    def _wait_for_watch(self, at: float) -> None:
        """Stop the clock of the plan while the watch is behind."""
        before = time.monotonic()
        arrived = {n for n in self._plan.due if self._plan.whole[n] <= at - 5}
        wait_for(lambda: arrived <= set(made(self._work)), 30.0)
        self._started += time.monotonic() - before


def start(work: Path, settle: float) -> subprocess.Popen[bytes]:
    """Start `convlstm watch` in a process of its own; its events are added to `events.jsonl`."""
    options = ["--settle", str(settle), "--poll", "0.1", "--threads", "1", "--log-file", "watch.log"]
    with (work / "events.jsonl").open("ab") as events, (work / "errors.txt").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "convlstm", "watch", "incoming", "-o", "forecasts", "--json", *options],
            cwd=work,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=events,
            stderr=errors,
        )


def wait_for(condition, seconds: float) -> bool:
    """Wait until a condition is true, and return whether it became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def state(work: Path) -> str:
    """Return the state in the health file."""
    try:
        return str(json.loads((work / "forecasts" / "health.json").read_text())["state"])
    except (OSError, ValueError):
        return "none"


def simulate(work: Path, plan: Plan, *, interval: float, size: int, settle: float, wait: float = 60.0) -> list[int]:
    """Run the day, and return the exit codes of the two processes."""
    files = make_frames(work / "all", plan.frames, size)
    (work / "incoming").mkdir()
    watch = start(work, settle)
    wait_for(lambda: state(work) == "waiting" or watch.poll() is not None, wait)
    if watch.poll() is not None:
        raise RuntimeError((work / "errors.txt").read_text())
    feed = Feed(plan, files, work, interval)
    try:
        feed.run_until(plan.frames // 2)
        wait_for(lambda: state(work) == "forecasting", 4 * interval)
        watch.kill()  # SIGKILL, in the middle of a forecast if there is one
        codes = [watch.wait()]
        feed.run_until(plan.frames // 2 + 3, paced=False)
        watch = start(work, settle)
        feed.run_until(plan.frames + 2 * CATCH_UP)
        wait_for(lambda: len(made(work)) >= len(plan.due) and state(work) == "waiting", wait)
        time.sleep(2 * settle + 1)  # whatever is made too much would be made now
        watch.send_signal(signal.SIGTERM)
        codes.append(watch.wait(timeout=60))
    finally:
        watch.kill()
    return codes


def made(work: Path) -> dict[int, Path]:
    """Return the forecasts by the number of their last input frame."""
    numbers = {}
    for path in sorted((work / "forecasts").glob("forecast_*.nc")):
        at = np.datetime64(time.strftime("%Y-%m-%dT%H:%M", time.strptime(path.stem, "forecast_%Y%m%dT%H%MZ")), "ns")
        numbers[int((at - START) / STEP)] = path
    return numbers


def events(work: Path) -> list[dict]:
    """Return the events of both processes; the line that the kill cut off is left out."""
    entries = []
    for line in (work / "events.jsonl").read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def number_of(text: str) -> int:
    """Return the number of the frame with a time."""
    return int((np.datetime64(text.removesuffix("Z"), "ns") - START) / STEP)


def largest_difference(work: Path, plan: Plan, every: int) -> tuple[int, float]:
    """Compare forecasts with those from the complete files; return their number, and the largest difference.

    Compared are all forecasts with a torn file among their inputs, and every n-th other.
    """
    nowcaster, largest, compared = Nowcaster.load(threads=1), 0.0, 0
    missing = {
        number_of(event["init_time"]): {number_of(text) for text in event["missing_inputs"]}
        for event in events(work)
        if event["event"] == "forecast"
    }
    torn = set(plan.half)
    for n, path in made(work).items():
        window = range(n - INPUTS + 1, n + 1)
        if n not in missing or not (torn & set(window) or n % every == 0):
            continue
        inputs = []
        for frame in window:
            with xr.open_dataset(work / "all" / f"rain_{max(frame, 0):04}.nc") as dataset:
                rain = dataset["rain"].values[0]
            inputs.append(np.full_like(rain, np.nan) if frame in missing[n] or frame < 0 else rain)
        options = {"units": "mm/h", "time_step": 300.0, "init_time": START + n * STEP}
        expected = nowcaster.forecast(np.stack(inputs), **options)
        with xr.open_dataset(path) as dataset:
            for name in ("probability_of_{}_above_threshold", "{}_mean"):
                there = dataset[name.format("rain")].values
                here = expected[name.format(nowcaster.pipeline.variables[0])].values
                same = np.isnan(there) == np.isnan(here)
                largest = max(largest, float(np.nanmax(np.abs(there - here), initial=0.0)) if same.all() else np.inf)
        compared += 1
    return compared, largest


def check(work: Path, plan: Plan, codes: list[int], every: int = 10) -> dict[str, str]:
    """Return the checks that failed, by name."""
    times = Counter(number_of(event["init_time"]) for event in events(work) if event["event"] == "forecast")
    there, failed = set(made(work)), {}
    compared, difference = largest_difference(work, plan, every)
    unreadable = {event["file"] for event in events(work) if event["event"] == "unreadable"}
    checks = {
        "every forecast that was due is there": (sorted(plan.due - there), []),
        "no other forecast is there": (sorted(there - plan.due), []),
        "none was made twice": ({n: count for n, count in times.items() if count > 1}, {}),
        "the process that was killed": (codes[0], -signal.SIGKILL),
        "a clean stop": (codes[1], 0),
        "no remains of drafts": ([path.name for path in (work / "forecasts").glob(".forecast*")], []),
        "forecasts are those from complete files": (difference <= TOLERANCE, True),
        "no error": ((work / "errors.txt").read_text(), ""),
    }
    for name, (received, expected) in checks.items():
        print(f"{'ok' if received == expected else 'FAILED':7} {name}")
        if received != expected:
            failed[name] = f"expected {expected}, got {received}"
    print(f"{len(there)} forecasts of {len(plan.due)} that were due; {compared} compared, largest difference", end=" ")
    print(f"{difference:.2g}; {len(unreadable)} files were not readable at first")
    return failed


def latency_table(work: Path, plan: Plan) -> list[str]:
    """Return the rows of a Markdown table of latencies by the kind of the last input frame."""
    rows = ["| last input frame | forecasts | median | 90 % | largest |", "|---|---|---|---|---|"]
    forecasts = [event for event in events(work) if event["event"] == "forecast"]
    for kind in ("on time", "late", "torn"):
        values = [
            event["latency_seconds"]
            for event in forecasts
            if event["latency_seconds"] is not None and plan.kind[number_of(event["init_time"])] == kind
        ]
        if values:
            median, high = np.percentile(values, [50, 90])
            rows.append(f"| {kind} | {len(values)} | {median:.2f} s | {high:.2f} s | {max(values):.2f} s |")
    after = [event for event in forecasts if event["latency_seconds"] is None]
    rows.append(f"| arrived while no watch ran | {len(after)} | | | |")
    compute = [event["compute_seconds"] for event in forecasts]
    rows.append(f"| all: reading, forecasting and writing | {len(compute)} | {np.median(compute):.2f} s | "
                f"{np.percentile(compute, 90):.2f} s | {max(compute):.2f} s |")  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=288)
    parser.add_argument("--interval", type=float, default=1.5, help="seconds between frames, instead of 300")
    parser.add_argument("--size", type=int, default=192, help="cells of a side")
    parser.add_argument("--settle", type=float, default=0.3, help="--settle of the watch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/watch_day"))
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    plan = make_plan(options.frames, options.seed)
    print(f"{options.frames} frames of {options.size} × {options.size} cells:", dict(Counter(plan.kind.values())))
    codes = simulate(options.work, plan, interval=options.interval, size=options.size, settle=options.settle)
    failed = check(options.work, plan, codes)
    print(*latency_table(options.work, plan), sep="\n")
    for name, text in failed.items():
        print(f"{name}: {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
