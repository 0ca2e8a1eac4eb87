"""CSI at 1 mm/h of the model in the package as a method of pysteps: fewer frames, missing ones, and another motion.

    python -m benchmarks.skill.pysteps_inputs

On every sixth start of the last day of the sample with rain over 0.1 mm/h on more than 5 % of the cells. It takes a
minute, and needs the extra `pysteps` for the Lucas–Kanade motion, which takes the place of the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np

from convlstm.data import open_frames, sample_path
from convlstm.nowcast import Nowcaster
from convlstm.nowcast.motion import estimate_motion
from convlstm.nowcast.rivals.methods import decibel, quiet
from convlstm.pysteps import forecast

STEPS = [1, 3, 6, 12]
LENGTH = 6
SECONDS = 300.0 * np.arange(LENGTH)
LEADS = 300.0 * np.array(STEPS)
LUCAS_KANADE = "Lucas-Kanade motion"


def cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield input frames (time, height, width) and observations of the lead times."""
    sample = open_frames(sample_path())
    days = sample.time.dt.strftime("%Y-%m-%d").values
    last_day = np.flatnonzero(days == days[-1])
    for start in last_day[LENGTH - 1 : -STEPS[-1] : 6]:
        frames = sample.read(slice(start - LENGTH + 1, start + 1))[:, 0]
        if (np.nan_to_num(frames[-1]) > 0.1).mean() > 0.05:
            yield frames, sample.read(start + np.array(STEPS))[:, 0]


def lucas_kanade(frames: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the motion of pysteps in the form of `estimate_motion`."""
    with quiet():
        from pysteps.motion import get_method

        x, y = get_method("LK")(decibel(np.float64(frames[-3:])))
    return np.float32([y, x]) / np.float32(seconds[-1] - seconds[-2])


def without_first(frames: np.ndarray, count: int) -> np.ndarray:
    """Return the frames with the first ones missing."""
    changed = frames.copy()
    changed[:count] = np.nan
    return changed


def main() -> None:
    """Print one line per input."""
    nowcaster = Nowcaster.load(threads=1)
    inputs = {f"{count} frames": lambda frames, count=count: frames[-count:] for count in (6, 4, 3, 2)}
    inputs |= {f"{count} of 6 missing": lambda frames, count=count: without_first(frames, count) for count in (1, 3)}
    inputs[LUCAS_KANADE] = lambda frames: frames
    counts = {name: np.zeros((2, len(STEPS))) for name in inputs}
    starts = 0
    for frames, observed in cases():
        starts += 1
        event, known = observed >= 1, np.isfinite(observed)
        for name, change in inputs.items():
            motion = lucas_kanade if name == LUCAS_KANADE else estimate_motion
            with patch("convlstm.nowcast.nowcaster.estimate_motion", motion):
                if name.endswith("missing"):  # `forecast` would replace these
                    rate = nowcaster.predict(change(frames)[None, :, None], SECONDS[None], LEADS)[0, :, 0]
                else:
                    rate = forecast(change(frames), None, STEPS, timestep=5, kmperpixel=1, model=nowcaster)
            counts[name][0] += ((rate >= 1) & event & known).sum(axis=(1, 2))
            counts[name][1] += (((rate >= 1) | event) & known).sum(axis=(1, 2))
    print(f"{starts} starts; minutes ahead: {', '.join(str(5 * step) for step in STEPS)}")
    for name, (hits, total) in counts.items():
        print(f"{name:20} {'  '.join(f'{value:.3f}' for value in hits / total)}")


if __name__ == "__main__":
    main()
