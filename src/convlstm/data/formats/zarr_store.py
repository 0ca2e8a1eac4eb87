"""Zarr stores of formats 2 and 3, in a folder or at an address."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from convlstm.data.formats.sizes import check_chunk, check_size
from convlstm.data.formats.zarr_chunks import SHARDING, CheckedStore, ShardIndex, shard_index, unpacking
from convlstm.errors import DataError

GROUP_METADATA = (".zgroup", ".zmetadata", "zarr.json")
_METADATA = (".zmetadata", ".zarray", "zarr.json")
_MOST_METADATA = 2**26
_CODEC_LISTS = {"filters", "compressor", "codecs"}


def is_store(path: Path) -> bool:
    """Return whether a folder is a Zarr group."""
    return any((path / name).is_file() for name in GROUP_METADATA)


def open_zarr(store: Path | str, max_bytes: int) -> xr.Dataset:
    """Open the root group of a store with packed numbers and undecoded times."""
    if isinstance(store, Path):
        _refuse_links(store)
        _refuse_pickle(store)
    group = zarr.open_group(store, mode="r")
    arrays = dict(group.arrays())
    checked = {}
    for name, array in arrays.items():
        metadata = array.metadata.to_dict()
        _check_codecs(f"{store}/{name}", metadata)
        chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
        check_chunk(store, name, chunk_bytes, array.nbytes)
        index = None
        codecs = _codecs_in_order(metadata)
        if SHARDING in codecs:
            index, codecs = _shards(f"{store}/{name}", metadata)
        checked[name] = unpacking(f"{store}/{name}", codecs, chunk_bytes, index)
    check_size(store, sum(array.nbytes for array in arrays.values() if array.ndim == 1), max_bytes)
    dataset = xr.open_dataset(
        CheckedStore(group.store, {name: how for name, how in checked.items() if how is not None}),  # type: ignore[arg-type]
        engine="zarr",
        mask_and_scale=False,
        decode_times=False,
        decode_coords="all",
        chunks=None,
    )
    _keep_zero_coordinates(dataset)
    return dataset


def _keep_zero_coordinates(dataset: xr.Dataset) -> None:
    """Remove the fill value 0 of coordinates, which Zarr writes by default: a time or a distance of 0 is a value."""
    for coordinate in dataset.coords.values():
        if np.array_equal(coordinate.attrs.get("_FillValue"), 0):
            del coordinate.attrs["_FillValue"]


def _refuse_links(store: Path) -> None:
    """Raise an error for a link to a file outside the store, whose content would be read as numbers."""
    root = store.resolve()
    for link in _links(root):
        if not link.resolve().is_relative_to(root):
            raise DataError(
                str(store),
                expected="files inside the store",
                received=f"the link {link.relative_to(root)} to a place outside",
                hint="Replace the link by a copy of the file.",
            )


def _links(folder: Path) -> Iterator[Path]:
    """Yield the symbolic links in a folder and the folders in it; a store may have a million files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir():
                yield from _links(Path(entry.path))


def _refuse_pickle(store: Path) -> None:
    for folder in (store, *(child for child in store.iterdir() if child.is_dir())):
        for name in _METADATA:
            if (folder / name).is_file():
                check_size(folder / name, (folder / name).stat().st_size, _MOST_METADATA)
                _check_codecs(str(folder / name), json.loads((folder / name).read_text()))


def _check_codecs(name: str, metadata: Any) -> None:
    if "pickle" in " ".join(_codecs(metadata)):
        raise DataError(
            name,
            expected="codecs for numbers",
            received="pickle, which executes code",
            hint="Write the file again without this codec.",
        )


def _codecs_in_order(metadata: Mapping[str, Any]) -> list[str]:
    """Return the names of the codecs of an array in the order of writing: in format 2 filters, then the compressor.

    The name of a checksum in front of the data says so.
    """
    codecs = [*(metadata.get("filters") or ()), metadata.get("compressor"), *(metadata.get("codecs") or ())]
    return [_codec_name(codec) for codec in codecs if isinstance(codec, dict)]


def _shards(name: str, metadata: Mapping[str, Any]) -> tuple[ShardIndex, list[str]]:
    """Return the index of an array in shards, and the names of the codecs of the chunks in them."""
    outer = _codecs_in_order(metadata)
    options = metadata["codecs"][outer.index(SHARDING)]["configuration"]
    inner, index = (_codecs_in_order({"codecs": options[key]}) for key in ("codecs", "index_codecs"))
    if SHARDING in inner:
        raise DataError(
            name,
            expected="shards without shards in them",
            received=", ".join(inner),
            hint="Write the file again with one level of shards.",
        )
    chunks = math.prod(metadata["chunk_grid"]["configuration"]["chunk_shape"]) // math.prod(options["chunk_shape"])
    endian = [codec.get("configuration", {}).get("endian", "little") for codec in options["index_codecs"]]
    is_plain = options.get("index_location", "end") == "end" and set(endian) == {"little"}
    return shard_index(name, outer, index, chunks=chunks, is_plain=is_plain), inner


def _codec_name(codec: Mapping[str, Any]) -> str:
    name = str(codec.get("id", codec.get("name")))
    options = codec.get("configuration", codec)
    location = options.get("location") if isinstance(options, dict) else None
    return name if location in (None, "end") else f"{name} at the {location}"


def _codecs(node: Any, listed: bool = False) -> Iterator[str]:
    """Return the names of the codecs in Zarr metadata of either format, including nested ones."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _codecs(item, listed)
    elif isinstance(node, dict):
        if listed:
            yield str(node.get("id", node.get("name", "")))
        for key, value in node.items():
            yield from _codecs(value, listed or key in _CODEC_LISTS)
