"""Forecasts of one `Nowcaster` in many threads: each equals the forecast of one thread, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.torture.inputs import make_rain
from benchmarks.torture.proof import Options, Proof, Result
from convlstm.data import open_frames
from convlstm.nowcast import Nowcaster

THREADS = 16
START = np.datetime64("2018-05-10T12:00", "ns")


def forecast_in_threads(options: Options) -> Result:
    """Forecast in 16 threads, each with an input of its own; the count is that of each thread."""
    frames = open_frames(make_rain(options.work / "rain.nc"))
    nowcaster = Nowcaster.load(threads=1)
    length = nowcaster.pipeline.input_length
    inputs = [frames.read(slice(start, start + length))[:, 0] for start in range(THREADS)]

    def digest(values: np.ndarray) -> str:
        fields = nowcaster.forecast(values, units="mm/h", time_step=300.0, init_time=START)
        return hashlib.sha256(b"".join(field.values.tobytes() for field in fields.data_vars.values())).hexdigest()

    expected = [digest(values) for values in inputs]
    result = Result(figures={"threads": THREADS, "different inputs": len(set(expected))})

    def work(thread: int) -> Sequence[str]:
        found = []
        for number in options.numbers():
            other = (thread + number) % THREADS
            found.append("" if digest(inputs[other]) == expected[other] else f"thread {thread}, forecast {number}")
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        for thread in [pool.submit(work, number) for number in range(THREADS)]:
            try:
                found = thread.result()
            except Exception as error:
                result.fail(f"{type(error).__name__}: {error}")
                continue
            result.count += len(found)
            for text in filter(None, found):
                result.fail(f"{text} differs")
    return result


PROOFS = {"nowcaster": Proof(forecast_in_threads, 500, "forecasts")}
