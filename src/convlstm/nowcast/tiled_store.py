"""A forecast as a Zarr store that is written tile by tile, and continued after an interruption.

Until all tiles are done, the store is in a folder next to its path, with one empty file for each finished tile. The
store is then renamed into place, so that it is complete if it is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from convlstm.data.opening import opened
from convlstm.data.units import Field
from convlstm.errors import OutputError
from convlstm.files import (
    complete_replacement,
    move_into_place,
    output_errors,
    remove_drafts,
    remove_folder,
    sync_files,
    write_atomic,
)
from convlstm.nowcast.cf_encoding import encoded, zarr_packed
from convlstm.nowcast.content_digest import DIGEST, MOST_BYTES, content_digest
from convlstm.nowcast.folder_lock import locked

UNFINISHED = ".unfinished"
"""End of the name of the folder with an unfinished store."""

IDENTITY = "tiled_forecast"
"""Attribute of the store with the model, the input and the options that decide its values, as JSON."""


@dataclass(frozen=True, eq=False)
class TiledStore:
    """The store of one forecast.

    Args:
        path: Where the store is when it is complete.
        identity: What decides its values: model, input and options, as JSON values.
    """

    path: Path
    identity: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the unfinished store."""
        path = Path(os.path.realpath(self.path))  # next to the store itself, if the path is a link
        return path.with_name(path.name + UNFINISHED)

    @property
    def is_complete(self) -> bool:
        """Whether the store is in its place, with all tiles of this forecast."""
        return self.path.exists() and not self._differences(self.path)

    def check(self, *, overwrite: bool) -> None:
        """Raise an error for a store of another forecast, complete or not, unless it may be replaced."""
        for store in (self.path, self._draft):
            different = self._differences(store) if store.exists() else []
            if different and not overwrite:
                raise OutputError(
                    str(store),
                    expected="no forecast by another model, from another input or with other options",
                    received=f"one that differs in {', '.join(different)}",
                    hint="Choose another `--output`, or replace it with `--overwrite`.",
                )

    @contextmanager
    def begun(self, template: xr.Dataset) -> Iterator[None]:
        """Begin or continue the store, and move it into place at the end of the block.

        The template has the coordinates, and fields without values. An error leaves the finished tiles.
        """
        with locked(self.folder, "forecast"):
            with output_errors(self.path):
                complete_replacement(self._draft, self.path)
            if self._differences(self._draft) or self._has_old_store:
                self._create(template)
            try:
                yield
            except BaseException:
                if not any(self.folder.glob("tile-*")):
                    self._remove_folder()
                raise
            self._add_digest()
            write_atomic(self._moving, partial(_write_json, self.identity))
            with output_errors(self.path):
                move_into_place(self._draft, self.path)
            self._remove_folder()  # while no other process can have begun in it

    def remove_leftovers(self) -> None:
        """Remove what an earlier process left that was killed after the complete store came into its place."""
        remove_drafts(self.folder.parent)
        if _read_json(self._moving) != self._plain_identity:
            return
        with suppress(OutputError), locked(self.folder, "forecast"):  # a process that has the lock removes it itself
            if _read_json(self._moving) == self._plain_identity:  # no other process has begun before the lock
                self._remove_folder()

    def _remove_folder(self) -> None:
        try:
            remove_folder(self.folder)
        except OSError:  # Windows cannot move the folder of an open lock
            shutil.rmtree(self.folder, ignore_errors=True)

    def has(self, place: tuple[int, int]) -> bool:
        """Return whether the tile in this row and column is finished."""
        return self._mark(place).exists()

    def write(self, place: tuple[int, int], part: tuple[slice, slice], fields: Mapping[str, Field]) -> None:
        """Write the fields (..., y, x) of a tile, whose chunks are its own, and mark it as finished."""
        with output_errors(self.path):
            group = zarr.open_group(self._draft, mode="r+", zarr_format=2)
            for name, values in fields.items():
                array = group[name]
                assert isinstance(array, zarr.Array)
                array[(..., *part)] = values
            sync_files(self._draft.glob(f"*/*.{place[0]}.{place[1]}"))  # the chunks of all fields
        write_atomic(self._mark(place), lambda mark: mark.touch())

    @property
    def _draft(self) -> Path:
        return self.folder / self.folder.name.removesuffix(UNFINISHED)  # the same for all links to a store

    @property
    def _moving(self) -> Path:
        """The file that has the identity of a complete store before the store is moved to its path."""
        return self.folder / "moving.json"

    @property
    def _has_old_store(self) -> bool:
        """Whether the store in the folder is the one that a complete store replaced; parts of it may be removed."""
        moved = _read_json(self._moving)
        return moved is not None and moved != self._plain_identity

    @property
    def _plain_identity(self) -> dict[str, Any]:
        """The identity as it is read from a file: with lists in place of tuples."""
        plain: dict[str, Any] = json.loads(json.dumps(self.identity))
        return plain

    def _create(self, template: xr.Dataset) -> None:
        """Write the store without any tile; an older one goes first, since its marks and values belong together."""
        with output_errors(self.path):
            if self._draft.exists():
                remove_folder(self._draft)
            for mark in (*self.folder.glob("tile-*"), self._moving):
                mark.unlink(missing_ok=True)
        identified = template.assign_attrs({IDENTITY: json.dumps(self.identity, sort_keys=True)})
        stored = zarr_packed(encoded(identified))
        # format 2 with consolidated metadata, as `write_forecast` writes
        write_atomic(self._draft, lambda draft: stored.to_zarr(draft, zarr_format=2, consolidated=True, compute=False))

    def _add_digest(self) -> None:
        """Write the digest of the content into both files with the attributes of the store.

        A kill leaves nothing in the store, because each file is written next to it and then replaces the other.
        """
        draft = self.folder / "attributes.json"
        with opened(self._draft, MOST_BYTES) as dataset:
            digest = content_digest(dataset)
        for name in (".zmetadata", ".zattrs"):
            content = _read_json(self._draft / name)
            attributes = content["metadata"][".zattrs"] if name == ".zmetadata" else content
            attributes[DIGEST] = digest
            with output_errors(self.path):
                _write_json(content, draft)
                sync_files([draft])
                draft.replace(self._draft / name)

    def _mark(self, place: tuple[int, int]) -> Path:
        return self.folder / f"tile-{place[0]}.{place[1]}"

    def _differences(self, store: Path) -> list[str]:
        """Return what differs in the forecast of a store; a store that was not written in tiles differs in its kind."""
        try:
            saved = json.loads(_read_json(store / ".zattrs")[IDENTITY])
            return [name for name, value in self._plain_identity.items() if value != saved.get(name)]
        except (ValueError, KeyError, TypeError, AttributeError):
            return ["its kind"]


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None without such a file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
