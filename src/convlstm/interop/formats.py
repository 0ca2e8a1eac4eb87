"""The foreign layouts by name, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlstm.errors import SpecError, WeightsError
from convlstm.interop.automan000 import AUTOMAN000, read_automan000
from convlstm.interop.containers import read_arrays, write_arrays
from convlstm.interop.finding import find, fits, is_certain, listed, named, pair_directions
from convlstm.interop.haiku import HAIKU, read_haiku
from convlstm.interop.hzzone import HZZONE, read_hzzone
from convlstm.interop.jhhuang96 import JHHUANG96, read_jhhuang96
from convlstm.interop.kamo import KAMO, read_kamo
from convlstm.interop.keras import KERAS, read_keras, write_keras
from convlstm.interop.layout import Converted, Layout
from convlstm.interop.linen import LINEN, read_linen, write_linen
from convlstm.interop.ndrplz import NDRPLZ, read_ndrplz, write_ndrplz
from convlstm.interop.openstl import OPENSTL, read_openstl
from convlstm.interop.tomo_oga import TOMO_OGA, read_tomo_oga
from convlstm.spec.parsing import check_options
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec

Write = Callable[[Spec, Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Format:
    """A foreign layout, its reader and writer (None if it is only read), and the options that `read` takes."""

    layout: Layout
    read: Callable[..., Converted]
    write: Write | None = None
    options: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    item.layout.name: item
    for item in (
        Format(KERAS, read_keras, write_keras, options=tuple(KERAS.choices)),
        Format(LINEN, read_linen, write_linen, options=tuple(LINEN.choices)),
        Format(HAIKU, read_haiku),
        Format(NDRPLZ, read_ndrplz, write_ndrplz),
        Format(TOMO_OGA, read_tomo_oga),
        Format(OPENSTL, read_openstl, options=("patch_size",)),
        Format(HZZONE, read_hzzone),
        Format(JHHUANG96, read_jhhuang96, options=("constant_channel",)),
        Format(AUTOMAN000, read_automan000),
        Format(KAMO, read_kamo, options=tuple(KAMO.choices)),
    )
}
"""Every layout that is read, by name."""

WRITTEN = tuple(name for name, item in FORMATS.items() if item.write is not None)
"""Names of the layouts that are written as well."""


def read_file(path: str | Path, layout: str, *, layers: Sequence[str] = (), **options: Any) -> Converted:
    """Read a file of foreign weights.

    Args:
        path: `*.safetensors`, `*.npz`, Keras's `*.h5`, or a checkpoint of PyTorch (`*.pt`, `*.pth`, `*.ckpt`), which
            holds tensors only.
        layout: A name in `FORMATS`.
        layers: Parts of paths that name the layers in order; none reads the only stack.
        **options: Options of the layer that the file does not show.

    Returns:
        Spec, canonical weights and notes.

    Raises:
        SpecError: for an unknown layout or option, or a missing required option.
        WeightsError: for a file that is unsafe, damaged or of another layout.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "model.npz"
        >>> np.savez(path, **{"cell_list.0.conv.weight": np.zeros((32, 9, 3, 3))})
        >>> read_file(path, "ndrplz").spec.hidden_channels
        (8,)
    """
    chosen = _format(layout, FORMATS)
    known = ", ".join(chosen.options)
    check_options(options, chosen.options, f"Use one of {known}." if known else "Remove it: this layout has none.")
    arrays = read_arrays(path)
    if not _holds(chosen, arrays, anywhere=bool(layers)):
        others = [name for name, item in FORMATS.items() if _holds(item, arrays)]
        raise WeightsError(
            str(path),
            expected=f"a layer of {chosen.layout.source}",
            received=listed(sorted(arrays)) or "no array at all",
            hint=f"Read it as {' or '.join(others)}." if others else "Pass a file with the weights of a ConvLSTM.",
        )
    return chosen.read(arrays, layers=layers, **options)


@dataclass(frozen=True)
class FoundLayer:
    """A layer in a file of foreign weights, with both directions if it is bidirectional.

    Args:
        layout: Name of its layout, a key of `FORMATS`.
        path: Its path in the file, to be passed as `layers`; of a bidirectional layer that of the forward direction.
        shapes: Shapes of the arrays at this path by name.
        is_certain: Whether its path shows the layout. Otherwise only the shapes fit, and it may be another convolution.
        is_bidirectional: Whether the file has both directions of the layer.
    """

    layout: str
    path: str
    shapes: Mapping[str, tuple[int, ...]]
    is_certain: bool
    is_bidirectional: bool = False


def find_layers(arrays: Mapping[str, Any], layout: str | None = None) -> tuple[FoundLayer, ...]:
    """Return the layers in a mapping of foreign weights, of one layout or of all.

    Args:
        arrays: A tree or flat mapping of arrays, such as a `state_dict`.
        layout: A name in `FORMATS`; None finds the layers of every layout.

    Returns:
        The layers, by layout and path.

    Raises:
        SpecError: for an unknown layout.

    Example:
        >>> import numpy as np
        >>> [layer] = find_layers({"net.cell_list.0.conv.weight": np.zeros((32, 9, 3, 3))})
        >>> layer.layout, layer.path, layer.shapes
        ('ndrplz', 'net.cell_list.0', {'conv.weight': (32, 9, 3, 3)})
    """
    layers: list[FoundLayer] = []
    for item in FORMATS.values() if layout is None else [_format(layout, FORMATS)]:
        layers += _layers_of(item.layout, named(item.layout, arrays))
    return tuple(layers)


def _layers_of(layout: Layout, flat: Mapping[str, Array]) -> Iterator[FoundLayer]:
    parts_by_path = find(layout, flat, anywhere=True)
    for layer in pair_directions(layout, parts_by_path):
        path = layer["forward"]
        parts = parts_by_path[path]
        if fits(layout, parts, flat):
            shapes = {name: flat[key].shape for name, key in parts.items()}
            yield FoundLayer(layout.name, path, shapes, is_certain(layout, path), "reverse" in layer)


def write_file(path: str | Path, layout: str, spec: Spec, weights: Mapping[str, Array]) -> Path:
    """Write weights to a file of a foreign layout.

    Args:
        path: `*.safetensors`, `*.npz`, or `*.h5` for Keras's `load_weights`.
        layout: `keras`, `linen` or `ndrplz`.
        spec: A layer stack.
        weights: Its canonical arrays.

    Returns:
        The path.

    Raises:
        SpecError: for another layout, or an option that it cannot hold.
        WeightsError: if weights and spec differ.
        OutputError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> write_file(Path(tempfile.mkdtemp()) / "keras.npz", "keras", spec, initialise(spec, seed=0)).name
        'keras.npz'
    """
    chosen = _format(layout, WRITTEN)
    assert chosen.write is not None
    return write_arrays(path, chosen.write(spec, weights))


def _format(name: str, known: Sequence[str] | Mapping[str, Format]) -> Format:
    if name in known:
        return FORMATS[name]
    raise SpecError(
        "layout", expected=f"one of {', '.join(known)}", received=repr(name), hint="Pass the name of a listed layout."
    )


def _holds(item: Format, arrays: Mapping[str, Array], *, anywhere: bool = False) -> bool:
    return bool(find(item.layout, named(item.layout, arrays), anywhere=anywhere))
