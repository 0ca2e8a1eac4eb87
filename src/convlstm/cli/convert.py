"""`convlstm convert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from convlstm.interop import Notes
    from convlstm.spec.types import Array
    from convlstm.weights.canonical import Spec


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Weights file: *.safetensors, *.npz, or *.h5 of Keras.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)],
    from_layout: Annotated[
        str | None,
        typer.Option(
            "--from", help="Layout of the input: keras, linen, haiku, ndrplz, tomo-oga or openstl. Default: convlstm."
        ),
    ] = None,
    to_layout: Annotated[
        str | None, typer.Option("--to", help="Layout of the output: keras, linen or ndrplz. Default: convlstm.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Layer to read, as its path or a part of it. Repeat in the order of the stack.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Option of the layer that the file does not show, such as padding=same."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", metavar="", help="List how the other layer differs.")] = False,
) -> None:
    """Convert the weights of another ConvLSTM to a model file of this package, or back.

    The file is checked before it is read, and nothing in it is executed: *.pt, *.pth and *.keras files are not
    opened. Options that the file does not show are printed with their assumed values; override them with `--set`.

    `ndrplz` is the GitHub repository ndrplz/ConvLSTM_pytorch, and `tomo-oga` is tomo-oga/convlstm-mlx.

    Example: `convlstm convert weights.npz -o layer.safetensors --from ndrplz --explain`
    """
    from convlstm.files import check_not_input, check_writable
    from convlstm.interop import read_file
    from convlstm.nowcast.config_text import parse_setting
    from convlstm.weights.checkpoint import load_model

    if from_layout is None and to_layout is None:
        raise typer.BadParameter("pass --from, --to or both", param_hint="--from")
    if from_layout is None and (layer or settings):
        raise typer.BadParameter("needs --from", param_hint="--layer" if layer else "--set")
    check_not_input(output, source)
    check_writable(output, folder=False)
    if from_layout is None:
        model = load_model(source)
        _write(output, to_layout, model.spec, model.weights, model.extra, explain)
    else:
        options = dict(parse_setting(setting, example="padding=same") for setting in settings or [])
        converted = read_file(source, from_layout, layers=layer or [], **options)
        _print_notes(converted.notes, explain)
        extra = {"converted_from": from_layout}
        _write(output, to_layout, converted.spec, converted.weights, extra, explain)


def _print_notes(notes: Notes, explain: bool) -> None:
    """Print the assumed options and, with `explain`, the differences of the other layer."""
    from convlstm.cli.output import say
    from convlstm.interop.finding import listed

    say(f"read {listed(notes.layers)}")
    if notes.assumed:
        say(f"assumed {_shown(notes.assumed)}: the file does not show these options, override them with --set")
    if notes.left_out:
        say(f"not read: {listed(notes.left_out)}")
    for line in notes.differences if explain else ():
        say(f"- {line}")


def _write(
    output: Path, layout: str | None, spec: Spec, weights: Mapping[str, Array], extra: dict[str, Any], explain: bool
) -> None:
    from convlstm.cli.output import say
    from convlstm.interop import FORMATS, write_file
    from convlstm.interop.reading import differences
    from convlstm.interop.writing import own_words
    from convlstm.weights.checkpoint import save_model

    if layout is None:
        say(f"{output}: digest {save_model(output, spec, weights, extra)}")
        return
    write_file(output, layout, spec, weights)
    foreign = FORMATS[layout].layout
    needed = own_words(foreign, spec)
    say(f"{output}: for {foreign.source}" + (f" built with {_shown(needed)}" if needed else ""))
    for line in differences(foreign) if explain else ():
        say(f"- {line}")


def _shown(options: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
