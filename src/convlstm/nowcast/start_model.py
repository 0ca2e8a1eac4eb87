"""The model that a training starts from: its options become the defaults, and its weights the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convlstm.errors import ConfigError, WeightsError
from convlstm.nowcast.config import BRIEF, Config
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.provenance import Provenance
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.checkpoint import Model, load_model

RAIN = "rain"
"""The name of the model in this package."""

_DATA_OPTIONS = ("transform", "log_top", "input_length", "horizon", "frame")
"""Options of the section `data` that a model was trained with: defaults of the new training."""

_OF_INPUTS = ("transform", "log_top", "frame")
"""Those of them that define the model's inputs and cannot be changed."""


def load_start(name: str) -> Model:
    """Return the forecaster of a model file or run folder, or the model in this package for the name `rain`."""
    path = shipped_model() if name == RAIN else Path(name)
    model = load_model(path)
    Pipeline.of_model(model, path)  # raises an error for a file that is not of a training
    return model


def with_options_of(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values with the options of a model where they do not set them."""
    config = Provenance.of_model(load_start(name)).config
    model, data = config.get("model"), config.get("data")
    if not (isinstance(model, dict) and isinstance(data, dict)):
        raise WeightsError(
            "training.start_from",
            expected="a model file with the configuration of its training",
            received=f"{name} without one",
            hint="Use a model written by `convlstm train`.",
        )
    needed = {option: data[option] for option in _DATA_OPTIONS if option in data}
    sections = {"model": model, "data": needed}
    merged = dict(values)
    for section, options in sections.items():
        chosen = values.get(section, {})
        # a section of another type is left as it is, for the error of the validation
        merged[section] = options | chosen if isinstance(chosen, dict) else chosen
    if isinstance(merged["data"], dict):
        _check_inputs(name, needed, merged["data"])
    return merged


def _check_inputs(name: str, needed: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Raise an error for an option that would give the model other inputs than in its training."""
    for option in _OF_INPUTS:
        if option in needed and chosen[option] != needed[option]:
            raise ConfigError(
                f"data.{option}",
                expected=f"{needed[option]}, as in the training of {name}",
                received=BRIEF.repr(chosen[option]),
                hint=f"Leave `data.{option}` out, or leave `training.start_from` out.",
            )


def check_start(model: Model, config: Config, pipeline: Pipeline) -> ForecasterSpec:
    """Return the options of the forecaster to start from; raise an error if configuration or data do not fit it.

    The reference duration stays that of the model, because its weights refer to it.
    """
    start = Pipeline.of_model(model, config.training.start_from)
    if start.units != pipeline.units:
        raise ConfigError(
            "training.start_from",
            expected=f"a model for values in {pipeline.units}, as in the data",
            received=f"a model for {start.units}",
            hint="Choose another model, or pass `--units`.",
        )
    assert isinstance(model.spec, ForecasterSpec)
    repeated = sorted(set(start.seen_days) & set(pipeline.days.get("test", ())))
    if repeated:
        raise ConfigError(
            "data.test",
            expected="days on which the model of training.start_from was not trained",
            received=", ".join(repeated[:3]),
            hint="Choose other test days, because scores on these would be too good.",
        )
    of_model, configured = (
        _by_name(spec) for spec in (model.spec, config.model.spec(pipeline.channels, pipeline.time_step))
    )
    different = [name for name in of_model if of_model[name] != configured.get(name)]
    if different:
        name = different[0]
        needed = BRIEF.repr(configured.get(name))
        raise ConfigError(
            "training.start_from",
            expected=f"a model with the options of this configuration, such as {name}={needed}",
            received=f"one with {name}={BRIEF.repr(of_model[name])}",
            hint="Leave the section `model` out, so that the model's own options apply, and pass as many variables.",
        )
    return model.spec


def _by_name(spec: ForecasterSpec) -> dict[str, Any]:
    """Return the options by name, without the reference duration."""
    options = spec.to_dict()
    encoder = options.pop("encoder")
    del encoder["reference_duration"]
    return options | {f"encoder.{name}": value for name, value in encoder.items()}
