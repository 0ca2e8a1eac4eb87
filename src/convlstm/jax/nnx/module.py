"""What the nnx layer, cell and forecaster share: a spec, its parameters, and where random keys come from."""

from __future__ import annotations

import zlib
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from convlstm.errors import SpecError
from convlstm.frontend.loading import HoldsExtra
from convlstm.jax.inputs import check_key, floating
from convlstm.jax.weights import Params, check_params, fresh
from convlstm.spec import parsing
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.canonical import Spec

RandomSource = nnx.Rngs | nnx.RngStream | jax.Array
"""Where a module takes a random key from: `nnx.Rngs`, one of its streams, or the key itself."""


class SpecModule(HoldsExtra, nnx.Module):
    """An nnx module whose parameters are those of a spec, under the names of `convlstm.jax.weights`."""

    def __init__(
        self, spec: Spec, dtype: DTypeLike | None, param_dtype: DTypeLike, generic: bool, rngs: nnx.Rngs
    ) -> None:
        if not isinstance(rngs, nnx.Rngs):
            raise SpecError("rngs", expected="nnx.Rngs", received=type(rngs).__name__, hint="Pass `nnx.Rngs(seed)`.")
        self.spec, self.dtype = spec, None if dtype is None else floating("dtype", dtype)
        self.generic, self.deterministic = parsing.flag("generic", generic), False
        self._is_random = (spec.encoder if isinstance(spec, ForecasterSpec) else spec).is_random
        key = one_key(rngs, "params")
        self.rngs = _dropout_stream(rngs, key) if self._is_random else nnx.data(None)
        for name, branch in fresh(spec, key, floating("param_dtype", param_dtype)).items():
            setattr(self, name, _variables(branch))

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as a tree of arrays, as the pure functions take them."""
        tree: dict[str, Any] = nnx.to_pure_dict(nnx.state(self, nnx.Param))
        return tree

    def set_params(self, params: Params) -> None:
        """Set other arrays of the same tree; a missing, unknown or misshapen one raises an error before any is set."""
        check_params(self.params, params)
        state = nnx.state(self, nnx.Param)
        nnx.replace_by_pure_dict(state, dict(params))
        nnx.update(self, state)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Take part in `nnx.view`, as `nnx.Dropout` does: `deterministic` is True in evaluation, None for no change."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _key(self, rngs: RandomSource | None) -> jax.Array | None:
        """Return the random key of a call in training, None in evaluation and without a random part."""
        if self.deterministic or not self._is_random:
            return None
        source = self.rngs if rngs is None else rngs
        return one_key(source, "dropout")


def one_key(source: Any, stream: str) -> jax.Array:
    """Return a key from `nnx.Rngs`, one of its streams, or a key itself."""
    source = _stream(source, stream) if isinstance(source, nnx.Rngs) else source
    key: jax.Array = source() if callable(source) else source
    check_key("rngs", key)
    return key


def _stream(rngs: nnx.Rngs, name: str) -> Any:
    try:
        return getattr(rngs, name)
    except AttributeError as error:
        received = ", ".join(rngs) or "none"
        raise SpecError(
            "rngs", expected=f"a stream {name}", received=received, hint="Pass `nnx.Rngs(seed)`."
        ) from error


def _dropout_stream(rngs: nnx.Rngs, params_key: jax.Array) -> Any:
    """Return the stream of a module's dropout: that of `rngs`, or one that follows from the key of the weights.

    A key taken from the default stream would change the initial weights of every module that is built later.
    """
    stream = _stream(rngs, "dropout")
    if "dropout" not in rngs:
        stream = nnx.Rngs(dropout=jax.random.fold_in(params_key, zlib.crc32(b"dropout"))).dropout
    return stream.fork()


def _variables(branch: Any) -> Any:
    if isinstance(branch, dict):
        return nnx.Dict({name: _variables(value) for name, value in branch.items()})
    return nnx.Param(branch)
