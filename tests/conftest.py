"""What every room's tests share: the house's demand on an error message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from convlstm.errors import ConvLSTMError

Refusal = Callable[[type[ConvLSTMError], str], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def refused() -> Refusal:
    """Expect an error of one class that names the argument, with all four parts in one line."""

    @contextmanager
    def check(kind: type[ConvLSTMError], argument: str) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        error = caught.value
        assert error.argument == argument
        assert error.expected
        assert error.mend
        assert str(error) == f"{argument}: expected {error.expected}, got {error.received}; {error.mend}"
        assert "\n" not in str(error)
        assert str(error).endswith(".")

    return check
