"""The digests of the files of an evaluation, and the check of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convlstm.data.library_errors import reading
from convlstm.data.opening import opened
from convlstm.errors import DataError
from convlstm.nowcast.content_digest import DIGEST, HINT, MOST_BYTES, content_digest, other_digest
from convlstm.verification.evaluation_folder import DESCRIPTION_FILE, FILES

FILE_DIGESTS = "files"
"""Entry of the description of an evaluation with the digest of each other file."""

SEAL = "seal"
"""Entry of the description of an evaluation with the digest of all other entries."""


def file_digest(path: Path) -> str:
    """Return the digest of one file of an evaluation: of its content for NetCDF, and of its bytes for a table."""
    with reading(str(path)):
        if path.suffix != ".nc":
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with opened(path, MOST_BYTES) as dataset:
            digest = content_digest(dataset)
            if dataset.attrs.get(DIGEST) != digest:
                raise other_digest(path, "content")
            return digest


def seal(description: Mapping[str, Any]) -> str:
    """Return the digest of a description without its seal."""
    content = {key: value for key, value in description.items() if key != SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_evaluation(folder: Path) -> tuple[str, str]:
    """Read the files of an evaluation, and return what it is and the digest of its description.

    Raises:
        DataError: if a file is missing or has another digest.
    """
    path = folder / DESCRIPTION_FILE
    description = _description(path)
    if description[SEAL] != seal(description):
        raise other_digest(path, "entries")
    for name, digest in description[FILE_DIGESTS].items():
        if not (folder / name).is_file():
            raise DataError(str(folder / name), expected="a file of the evaluation", received="none", hint=HINT)
        if file_digest(folder / name) != digest:
            raise other_digest(folder / name, "content")
    return f"evaluation of {len(description['methods'])} methods", str(description[SEAL])


def _description(path: Path) -> dict[str, Any]:
    """Return the content of a description, which must have its methods, its seal and a digest for each file."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        received = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(str(path), expected="a readable JSON file", received=received, hint=HINT) from error
    files = content.get(FILE_DIGESTS) if isinstance(content, dict) else None
    is_whole = isinstance(files, dict) and set(files) == set(FILES) - {DESCRIPTION_FILE}
    if not is_whole or SEAL not in content or not isinstance(content.get("methods"), list):
        hint = "Evaluate again: an earlier version wrote no digests."
        raise DataError(str(path), expected="digests of all files", received="other entries", hint=hint)
    result: dict[str, Any] = content
    return result
