"""A layer that starts each call from the state of the call before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm.errors import SpecError, StateError

pytestmark = pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)

X = np.random.default_rng(0).standard_normal((2, 6, 1, 8, 7)).astype(np.float32)


def build(frontend, **options: Any) -> Any:
    layer = frontend.build("ConvLSTM", 1, [3, 2], 3, stride=[(2, 2), (1, 1)], **options)
    return frontend.StatefulConvLSTM(layer)


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_parts_one_after_another_are_the_whole(frontend) -> None:
    stream = build(frontend)
    assert stream.last_state is None
    whole = frontend.call(stream.layer, X)
    parts = [frontend.call(stream, X[:, start:stop]) for start, stop in ((0, 2), (2, 5), (5, 6))]
    close(np.concatenate([part.output for part in parts], axis=1), whole.output)
    for found, wanted in zip([*parts[-1].h, *parts[-1].c], [*whole.h, *whole.c], strict=True):
        close(found, wanted)
    h, c = stream.last_state
    close(frontend.channels_first(h[-1]), whole.h[-1])
    close(frontend.channels_first(c[-1]), whole.c[-1])
    assert (frontend.call(stream, X).output != whole.output).any()
    stream.reset_state()
    close(frontend.call(stream, X).output, whole.output)


def test_single_rows_begin_anew(frontend, refused) -> None:
    stream = build(frontend)
    whole = frontend.call(stream.layer, X).output
    frontend.call(stream, X)
    for rows in ([True], [0.5, 1.0], [1, 0], [[True, False]]):
        with refused(StateError, "rows"):
            stream.reset_state(rows)
    for rows in ([True, False], frontend.to_native(np.array([True, False]))):
        stream.reset_state(rows)
        output = frontend.call(stream, X).output
        close(output[0], whole[0])
        assert not np.allclose(output[1], whole[1])


def test_row_that_begins_anew_forgets_nan(frontend) -> None:
    stream, bad = build(frontend), X.copy()
    bad[0] = np.nan
    frontend.call(stream, bad)
    stream.reset_state([True, False])
    assert np.isfinite(frontend.call(stream, X).output).all()


def test_call_without_a_batch_has_one_row(frontend, refused) -> None:
    stream = build(frontend)
    whole = frontend.call(stream.layer, X[0]).output
    frontend.call(stream, X[0])
    with refused(StateError, "rows"):
        stream.reset_state([True] * 3)
    stream.reset_state([True])
    close(frontend.call(stream, X[0]).output, whole)


def test_another_batch_is_refused_and_changes_nothing(frontend, refused) -> None:
    stream, other = build(frontend), build(frontend)
    frontend.load_canonical(other.layer, frontend.to_canonical(stream.layer))
    for one in (stream, other):
        frontend.call(one, X)
    for x in (X[:1], X[..., :4]):
        with refused(StateError, "x"):
            frontend.call(stream, x)
    with pytest.raises(StateError, match=r"differs in batch. Call `reset_state\(\)`"):
        frontend.call(stream, X[:1])
    with refused(StateError, "state"):
        stream(frontend.native(X), state=None)
    close(frontend.call(stream, X).output, frontend.call(other, X).output)
    stream.reset_state()
    frontend.call(stream, X[:1])


def test_state_is_no_parameter(frontend) -> None:
    stream = build(frontend)
    frontend.call(stream, X)
    names = frontend.parameters(stream).keys()
    assert names == {f"layer.{name}" for name in frontend.parameters(stream.layer)}


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_backward_layer_is_refused(direction: str, frontend, refused) -> None:
    with refused(SpecError, "direction"):
        build(frontend, direction=direction)


def test_only_a_layer_is_wrapped(frontend, refused) -> None:
    for layer in (frontend.build("ConvLSTMCell", 1, 2, 3), object(), None):
        with refused(SpecError, "layer"):
            frontend.StatefulConvLSTM(layer)


def test_a_stream_in_training_takes_the_dropout_of_its_part(frontend) -> None:
    stream = build(frontend, zoneout_h=0.3, recurrent_dropout=0.3)
    masks = stream.layer.sample_masks(frontend.native(X))
    whole = frontend.call(stream.layer, X, dropout_masks=masks)
    parts = [frontend.call(stream, X[:, span], dropout_masks=masks[span]) for span in (slice(0, 2), slice(2, 6))]
    close(np.concatenate([part.output for part in parts], axis=1), whole.output)
