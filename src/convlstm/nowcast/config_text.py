"""Read a configuration from TOML, YAML and single settings, and write it as annotated YAML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from convlstm.errors import ConfigError
from convlstm.nowcast.config import BRIEF, HINT, Config, validate
from convlstm.nowcast.start_model import with_options_of


def read_config(
    path: str | Path | None = None,
    settings: list[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Return the validated configuration of a TOML or YAML file, or of the defaults, changed by single settings.

    Settings are texts such as `training.steps=500`, with a YAML value. The overrides, values by such names, come last.
    With `training.start_from` the options of that model replace the defaults.
    """
    values = {} if path is None else _read_file(Path(path))
    for setting in settings or []:
        name, value = parse_setting(setting, example="training.steps=500")
        _set_option(values, name, value, source="--set")
    for name, value in (overrides or {}).items():
        _set_option(values, name, value, source=name)
    training = values.get("training")
    start = training.get("start_from") if isinstance(training, dict) else None
    return validate(with_options_of(str(start), values) if start is not None else values)


def parse_setting(setting: str, *, example: str) -> tuple[str, Any]:
    """Return name and value of a setting NAME=VALUE, with the value in YAML; the example is for the hint."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError("--set", expected="NAME=VALUE", received=repr(setting), hint=f"Write it as {example}.")
    try:
        return name.strip(), yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--set {name}", expected="a YAML value", received=BRIEF.repr(text), hint="Put quotes around the value."
        ) from error


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML for `read_config`, one line per option with its description."""
    return "".join(_lines(config, indent=""))


def _set_option(values: dict[str, Any], name: str, value: object, *, source: str) -> None:
    *sections, option = name.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            received = f"{section}: {BRIEF.repr(target)}"
            raise ConfigError(source, expected="a section", received=received, hint=HINT)
    target[option] = value


def _lines(part: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield f"{name}:\n"
            yield from _lines(value, indent="  ")
        else:
            # in a list, so that every value is on one line
            plain = yaml.safe_dump([value], default_flow_style=True, width=2**20, allow_unicode=True)
            yield f"{indent}{name}: {plain.strip()[1:-1]}  # {field.description}\n"


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(str(path), expected="a TOML or YAML file", received="no file", hint="Correct the path.")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    # the parsers raise ValueError for a day such as 2018-02-30, and RecursionError for deep nesting
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            str(path), expected="valid TOML or YAML", received=_one_line(error), hint="Correct the file."
        ) from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(str(path), expected="sections of options", received=type(values).__name__, hint=HINT)
    return values or {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
