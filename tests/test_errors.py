"""An error names four things in one line and can be pickled."""

from __future__ import annotations

import pickle

import pytest

from convlstm import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ConvLSTMError)]
BUILT_IN = {
    "SpecError": ValueError,
    "ConfigError": ValueError,
    "DataError": ValueError,
    "WeightsError": ValueError,
    "ShapeError": ValueError,
    "DtypeError": TypeError,
    "StateError": ValueError,
    "OutputError": OSError,
    "TrainingError": RuntimeError,
    "LostProcessError": RuntimeError,
    "DependencyError": ImportError,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_one_line_with_four_parts(kind: type[errors.ConvLSTMError]) -> None:
    error = kind("size", expected="at least 1", received=0, hint="enlarge it.")
    assert str(error) == "size: expected at least 1, got 0; enlarge it."
    assert str(kind("size", expected="1", received=0, hint="Enlarge it.")) == "size: expected 1, got 0. Enlarge it."
    assert (error.argument, error.expected, error.received, error.hint) == ("size", "at least 1", 0, "enlarge it.")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_travels_between_processes(kind: type[errors.ConvLSTMError]) -> None:
    error = pickle.loads(pickle.dumps(kind("size", expected="1", received=(2, 3), hint="cut.")))  # noqa: S301
    assert type(error) is kind
    assert str(error) == "size: expected 1, got (2, 3); cut."
    assert error.received == (2, 3)


def test_errors_are_also_the_built_in_kind_that_callers_catch() -> None:
    assert {kind.__name__ for kind in KINDS} == {*BUILT_IN, "ConvLSTMError"}
    for name, built_in in BUILT_IN.items():
        assert issubclass(getattr(errors, name), built_in)


def test_exit_codes_are_never_success() -> None:
    assert all(1 <= kind.exit_code < 64 for kind in KINDS)
    assert errors.ConvLSTMError.exit_code == 1


def test_a_message_is_short_whatever_a_file_holds() -> None:
    error = errors.SpecError("size", expected="e" * 10**6, received=[1] * 10**6, hint="Use less.")
    assert len(str(error)) < 1300
    assert "… (3,000,000 characters). Use less." in str(error)


def test_line_ends_and_control_characters_of_a_name_are_escaped() -> None:
    error = errors.ConfigError("data.a\nb\x1b[2J", expected="≥ 3", received="4\r", hint="Correct it.")
    assert str(error) == r"data.a\nb\x1b[2J: expected ≥ 3, got 4\r. Correct it."
