"""`convlstm convert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from convlstm.interop import Converted, Notes
    from convlstm.spec.types import Array
    from convlstm.weights.canonical import Spec


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Weights file: *.safetensors, *.npz, *.h5 of Keras, *.pt or *.pth of PyTorch.",
            show_default=False,
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default=False)] = None,
    from_layout: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Layout of the input: keras, linen, haiku, ndrplz, tomo-oga, openstl, hzzone, jhhuang96, automan000 "
            "or kamo. Default: convlstm.",
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
    list_layers: Annotated[
        bool, typer.Option("--list", metavar="", help="List the layers in the file, and write nothing.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", metavar="", help="List how the other layer differs.")] = False,
) -> None:
    """Convert the weights of another ConvLSTM to a model file of this package, or back.

    The file is checked before it is read, and nothing in it is executed: *.pt and *.pth files must hold tensors only,
    and *.keras files are not opened. Options that the file does not show are printed with their assumed values;
    override them with `--set`.

    A layer may be anywhere in the checkpoint of a larger model: `--list` prints the paths for `--layer`.

    The layouts from ndrplz on are those of GitHub repositories: ndrplz/ConvLSTM_pytorch (also of
    holmdk/Video-Prediction-using-PyTorch), tomo-oga/convlstm-mlx, chengtan9907/OpenSTL,
    Hzzone/Precipitation-Nowcasting, jhhuang96/ConvLSTM-PyTorch, automan000/Convolutional_LSTM_PyTorch and
    kamo-naoyuki/pytorch_convolutional_rnn.

    Example: `convlstm convert weights.npz -o layer.safetensors --from ndrplz --explain`
    """
    from convlstm.files import check_not_input, check_suffix, check_writable
    from convlstm.nowcast.config_text import parse_setting
    from convlstm.weights.checkpoint import load_model

    if list_layers:
        _print_layers(source, from_layout)
        return
    if output is None:
        raise typer.BadParameter("pass the file to write, or --list", param_hint="--output")
    if from_layout is None and to_layout is None:
        raise typer.BadParameter("pass --from, --to or both", param_hint="--from")
    if from_layout is None and (layer or settings):
        raise typer.BadParameter("needs --from", param_hint="--layer" if layer else "--set")
    check_not_input(output, source)
    check_writable(output, folder=False)
    if to_layout is None:
        check_suffix(output, (".safetensors",))
    if from_layout is None:
        model = load_model(source)
        _write(output, to_layout, model.spec, model.weights, model.extra, explain)
    else:
        options = dict(parse_setting(setting, example="padding=same") for setting in settings or [])
        converted = _read(source, from_layout, layer or [], options)
        _print_notes(converted.notes, explain)
        extra = {"converted_from": from_layout}
        _write(output, to_layout, converted.spec, converted.weights, extra, explain)


def _read(source: Path, layout: str, layers: list[str], options: dict[str, Any]) -> Converted:
    """Read the layers; if the file has several and none was named, print them before the error."""
    from convlstm.errors import WeightsError
    from convlstm.interop import read_file

    try:
        return read_file(source, layout, layers=layers, **options)
    except WeightsError as error:
        if error.argument == "layer":
            _print_layers(source, layout)
        raise


def _print_layers(source: Path, layout: str | None) -> None:
    """Print the layout, path and shapes of each layer in a file."""
    from convlstm.cli.output import say
    from convlstm.errors import WeightsError
    from convlstm.interop import find_layers
    from convlstm.interop.containers import read_arrays

    layers = find_layers(read_arrays(source), layout)
    if not layers:
        raise WeightsError(
            str(source),
            expected="a ConvLSTM in a known layout",
            received="none",
            hint="Pass a file with the weights of a ConvLSTM.",
        )
    for layer in layers:
        shapes = ", ".join(f"{name} {shape}" for name, shape in layer.shapes.items())
        doubt = "" if layer.is_certain else " (only the shapes fit: it may be another convolution)"
        directions = " (both directions)" if layer.is_bidirectional else ""
        say(f"{layer.layout}: {layer.path or '(top level)'}{directions}: {shapes}{doubt}")


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
    from convlstm.interop.writing import constructor_arguments
    from convlstm.weights.checkpoint import save_model

    if layout is None:
        say(f"{output}: digest {save_model(output, spec, weights, extra)}")
        return
    write_file(output, layout, spec, weights)
    foreign = FORMATS[layout].layout
    needed = constructor_arguments(foreign, spec)
    say(f"{output}: for {foreign.source}" + (f" built with {_shown(needed)}" if needed else ""))
    for line in differences(foreign) if explain else ():
        say(f"- {line}")


def _shown(options: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
