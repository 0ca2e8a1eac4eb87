"""The errors of the package: one base class and one message format.

Every message names four things in one line: the argument, what was expected, what was received, and a hint.
The command line prints that line and exits with the class's `exit_code`.
"""

from __future__ import annotations

_LONGEST = 600  # characters of a part of a message


class ConvLSTMError(Exception):
    """Base of every error the package raises on purpose.

    Args:
        argument: Name of the argument, option, file or variable at fault.
        expected: What would be right.
        received: What the caller passed.
        hint: What to do, as an imperative sentence that starts with a capital letter.

    Example:
        >>> str(ShapeError("x", expected="5 axes", received="shape (4, 4)", hint="Add batch and time."))
        'x: expected 5 axes, got shape (4, 4). Add batch and time.'
    """

    exit_code = 1

    def __init__(self, argument: str, *, expected: str, received: object, hint: str) -> None:
        self.argument = argument
        self.expected = _shortened(expected)
        self.received = received if len(str(received)) <= _LONGEST else _shortened(str(received))
        self.hint = hint
        separator = ". " if hint[:1].isupper() else "; "
        super().__init__(printable(f"{argument}: expected {self.expected}, got {self.received}{separator}{hint}"))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the four parts when the error is pickled."""
        return _rebuild, (type(self), self.argument, self.expected, self.received, self.hint)


def _shortened(text: str) -> str:
    """Return the beginning of a long text: a file can hold lists of any length."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


def printable(text: str) -> str:
    r"""Return a text with escapes for line ends, control characters and others that a terminal does not show.

    Example:
        >>> print(printable("rain\x1b[2J"))
        rain\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _rebuild(kind: type[ConvLSTMError], argument: str, expected: str, received: object, hint: str) -> ConvLSTMError:
    return kind(argument, expected=expected, received=received, hint=hint)


def install(extra: str) -> str:
    """Return the command that installs an extra of this package, by the name of its installed distribution.

    Example:
        >>> install("torch")
        "pip install 'convlstm[torch]'"
    """
    from importlib.metadata import packages_distributions  # slow to load, and needed by messages only

    names = packages_distributions().get("convlstm", ["convlstm"])
    return f"pip install '{names[0]}[{extra}]'"


class SpecError(ConvLSTMError, ValueError):
    """An option of a layer or model is not allowed, or two options contradict each other."""

    exit_code = 3


class ConfigError(ConvLSTMError, ValueError):
    """A configuration file or `--set` value is not allowed."""

    exit_code = 3


class DataError(ConvLSTMError, ValueError):
    """An input file or its content cannot be used."""

    exit_code = 4


class WeightsError(ConvLSTMError, ValueError):
    """A weights file, or its fit to a spec or to the data, is wrong."""

    exit_code = 5


class OutputError(ConvLSTMError, OSError):
    """A result cannot be written; existing files are unchanged."""

    exit_code = 6


class TrainingError(ConvLSTMError, RuntimeError):
    """Training cannot continue; the last good checkpoint is kept."""

    exit_code = 7


class LostProcessError(TrainingError):
    """Another process of the training has ended, or cannot be reached; the last good checkpoint is kept."""

    exit_code = 9


class DependencyError(ConvLSTMError, ImportError):
    """An optional package that this call needs is not installed."""

    exit_code = 8


class ShapeError(ConvLSTMError, ValueError):
    """An array has the wrong number of axes or the wrong size along one."""

    exit_code = 4


class DtypeError(ShapeError, TypeError):
    """An array has a data type or a memory layout that the layer does not compute with."""


class StateError(ConvLSTMError, ValueError):
    """A recurrent state does not fit the call that receives it."""

    exit_code = 4
