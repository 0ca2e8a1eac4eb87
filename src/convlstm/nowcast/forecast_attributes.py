"""The global attributes of a forecast: what it is, which model made it, when, and from which input."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from convlstm import __version__
from convlstm.data import Frames
from convlstm.data.units import Field
from convlstm.errors import ConfigError
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.nowcast.provenance import Provenance

CONVENTIONS = "CF-1.11"
EPOCH = "SOURCE_DATE_EPOCH"
"""Environment variable with the time of a run in seconds since 1970, so that its files can be made again byte by byte.

Defined by https://reproducible-builds.org/specs/source-date-epoch.
"""

_TERMS = ("license", "licence", "attribution")
"""Attributes of the input that hold for what is made from it, and so keep their names."""


def forecast_attributes(
    nowcaster: Nowcaster, frames: Frames, window: slice, inputs: Field, command: Sequence[str]
) -> dict[str, str]:
    """Return the global attributes of a forecast from the frames `window`, with values (time, channel, y, x).

    The attributes of the input have names that begin with `input_`. Its licence and attribution keep their names.
    """
    name, digest = model_name(nowcaster), nowcaster.model.digest
    terms = {key: text for key, text in frames.attrs.items() if key in _TERMS}
    of_input = {f"input_{key}": text for key, text in frames.attrs.items() if key not in (*_TERMS, "Conventions")}
    first, last = (str(frames.time.values[frame])[:19].replace(" ", "T") for frame in (window.start, window.stop - 1))
    return {
        "Conventions": CONVENTIONS,
        "title": f"Forecast of {', '.join(nowcaster.pipeline.variables)} by the model '{name}'",
        "source": f"convlstm {__version__}, model '{name}', weights {digest}",
        "history": history_line(nowcaster, command),
        "model_name": name,
        "model_digest": digest,
        **terms,
        **of_input,
        "input_times": f"{window.stop - window.start} frames from {first} to {last}",
        "input_digest": f"sha256:{input_digest(inputs)}",
    }


def model_name(nowcaster: Nowcaster) -> str:
    """Return the title of the model's card, or the beginning of the digest of its weights."""
    card = nowcaster.model.extra.get("card")
    title = card.get("title") if isinstance(card, dict) else None
    return title if isinstance(title, str) and title else nowcaster.model.digest[:16]


def input_digest(values: Field) -> str:
    """Return the SHA-256 of values as little-endian float32 in C order, with one bit pattern for NaN.

    Example:
        >>> input_digest(np.zeros((1, 1, 2, 2), np.float32))[:16]
        '374708fff7719dd5'
    """
    digest = hashlib.sha256()
    for frame in values:  # one by one, to limit the memory
        plain = np.where(np.isnan(frame), np.float32(np.nan), frame)
        digest.update(np.ascontiguousarray(plain, "<f4").tobytes())
    return digest.hexdigest()


def run_time() -> datetime:
    """Return the time of the run in UTC: now, or the time in `SOURCE_DATE_EPOCH` if that is set."""
    text = os.environ.get(EPOCH)
    if text is None:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            EPOCH,
            expected="whole seconds since 1970-01-01 in this environment variable",
            received=repr(text[:40]),
            hint=f"Correct it, or run `unset {EPOCH}`.",
        ) from error


def history_line(nowcaster: Nowcaster, command: Sequence[str]) -> str:
    """Return the line of the history: time of the run, version, command, seed and weights."""
    seed = Provenance.of_model(nowcaster.model).seed
    seed_text = "unknown" if seed is None else str(seed)
    command_text = shlex.join(command) or "forecast"
    time = f"{run_time():%Y-%m-%dT%H:%M:%SZ}"
    return f"{time} convlstm {__version__}: {command_text}; seed {seed_text}; weights {nowcaster.model.digest}"
