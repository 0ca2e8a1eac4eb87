"""Read a configuration from TOML, YAML and single settings, and write it as annotated YAML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from convlstm.errors import ConfigError
from convlstm.nowcast.config import BRIEF, HINT, Config, validate


def read_config(path: str | Path | None = None, settings: list[str] | None = None) -> Config:
    """Return the configuration of a file, changed by single settings.

    Args:
        path: A TOML or YAML file; None starts from the defaults.
        settings: Texts such as `training.steps=500`; values are read as YAML.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: naming the option, the expected value and the received value.

    Example:
        >>> read_config(settings=["training.steps=500", "data.crop=null"]).data.crop is None
        True
    """
    values = {} if path is None else _read_file(Path(path))
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(
                "--set", expected="NAME=VALUE", received=repr(setting), hint="Write it as training.steps=500."
            )
        *sections, option = name.strip().split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError("--set", expected="a section", received=repr(section), hint=HINT)
        target[option] = _parse(text, f"--set {name}")
    return validate(values)


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML for `read_config`, with the description of each option.

    Args:
        config: The configuration.

    Returns:
        One line per option.

    Example:
        >>> print(to_yaml(Config()).splitlines()[-1])
        seed: 0  # Seed of weights, batches and dropout.
    """
    return "".join(_lines(config, indent=""))


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


def _parse(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            name, expected="a YAML value", received=BRIEF.repr(text), hint="Put quotes around the value."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
