"""`convlstm convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from convlstm.interop import Notes
    from convlstm.spec.types import Array
    from convlstm.weights.canonical import Spec


def convert(
    source: Annotated[Path, typer.Argument(help="Weights: *.safetensors, *.npz or Keras's *.h5.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)],
    from_layout: Annotated[
        str | None,
        typer.Option(
            "--from", help="keras, linen, haiku, ndrplz, tomo-oga or openstl; this package's own if left out."
        ),
    ] = None,
    to_layout: Annotated[
        str | None, typer.Option("--to", help="keras, linen or ndrplz; this package's own if left out.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="Layer to read, by its path or a part of it; repeat in the stack's order."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="What the layer was built with and the file does not show, as padding=same."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what the foreign layer does otherwise.")] = False,
) -> None:
    """Turn the weights of another ConvLSTM into a model file of this package, or back.

    The file is checked before it is read, and nothing in it is executed: foreign pickles (*.pt, *.pth, *.keras) are
    not opened. What of the layer its file does not show is printed as it was taken; `--set` changes it.

    Example: `convlstm convert ndrplz.npz -o layer.safetensors --from ndrplz --explain`
    """
    from convlstm.files import check_apart, check_writable

    if from_layout is None and to_layout is None:
        raise typer.BadParameter("give --from, --to or both", param_hint="--from")
    if from_layout is None and (layer or settings):
        raise typer.BadParameter("acts with --from alone", param_hint="--layer" if layer else "--set")
    check_apart(output, source)
    check_writable(output, folder=False)
    if from_layout is None:
        spec, weights, extra = _own(source)
    else:
        spec, weights, notes = _foreign(source, from_layout, layer or [], _options(settings or []))
        extra = {"converted_from": from_layout}
        _tell(notes, explain)
    _write(output, to_layout, spec, weights, extra, explain)


def _own(source: Path) -> tuple[Spec, dict[str, Array], dict[str, Any]]:
    from convlstm.weights.checkpoint import load_model

    model = load_model(source)
    return model.spec, dict(model.weights), model.extra


def _foreign(
    source: Path, layout: str, layers: list[str], options: dict[str, Any]
) -> tuple[Spec, dict[str, Array], Notes]:
    from convlstm.interop import read_file

    converted = read_file(source, layout, layers=layers, **options)
    return converted.spec, converted.weights, converted.notes


def _options(settings: list[str]) -> dict[str, Any]:
    """Return `--set NAME=VALUE` by name, values read as YAML."""
    import yaml

    from convlstm.errors import ConfigError

    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError("--set", expected="NAME=VALUE", received=repr(setting), hint="as padding=same.")
        try:
            options[name.strip()] = yaml.safe_load(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(
                f"--set {name}", expected="a YAML value", received=repr(text), hint="quote it."
            ) from error
    return options


def _tell(notes: Notes, explain: bool) -> None:
    """Print what was taken for granted, and on request what is otherwise."""
    from convlstm.cli.output import say
    from convlstm.interop.finding import listed

    say(f"read {listed(notes.layers)}")
    if notes.assumed:
        say(f"taken as built with {_shown(notes.assumed)}: the file does not show it, --set changes it")
    if notes.left_out:
        say(f"not read: {listed(notes.left_out)}")
    for line in notes.differences if explain else ():
        say(f"- {line}")


def _write(
    output: Path, layout: str | None, spec: Spec, weights: dict[str, Array], extra: dict[str, Any], explain: bool
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
    say(f"{output}: for {foreign.source}" + (f", built with {_shown(needed)}" if needed else ""))
    for line in differences(foreign) if explain else ():
        say(f"- {line}")


def _shown(options: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
