"""Dropout masks of one's own: one public type, batch first, the same for several calls and for parts of a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, DropoutMasks
from convlstm.errors import DtypeError, ShapeError, SpecError
from convlstm.reference import recurrence as reference
from convlstm.spec.masks import LayerMasks

RATES = {"input_dropout": 0.3, "recurrent_dropout": 0.3, "zoneout_h": 0.3, "zoneout_c": 0.2, "dropout": 0.3}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def build(frontend, **options: Any) -> Any:
    return frontend.build("ConvLSTM", 2, [4, 3], 3, **RATES | options)


def test_masks_are_of_the_public_type_and_batch_first(frontend) -> None:
    masks = build(frontend).sample_masks(frontend.frames(2, 5, 2, 6, 7))
    assert isinstance(masks, DropoutMasks)
    assert list(masks.masks) == [(0, "forward"), (1, "forward")]
    first = {kind: frontend.channels_first(mask).shape for kind, mask in masks.masks[0, "forward"]._asdict().items()}
    assert first == {
        "input": (2, 2, 6, 7),
        "recurrent": (2, 4, 6, 7),
        "zoneout_h": (2, 5, 4, 6, 7),
        "zoneout_c": (2, 5, 4, 6, 7),
    }
    assert frontend.channels_first(masks.dropout[0]).shape == (2, 5, 4, 6, 7)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sampled_masks_act_as_in_the_reference(direction: str, frontend) -> None:
    layer, x = build(frontend, direction=direction), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x), **frontend.generator(3))

    def array(mask: Any, per_step: bool = False) -> np.ndarray:
        first = np.float64(frontend.channels_first(mask))
        return first.swapaxes(0, 1) if per_step else first

    inside = {
        place: LayerMasks(*[array(mask, kind.startswith("zoneout")) for kind, mask in of_layer._asdict().items()])
        for place, of_layer in masks.masks.items()
    }
    weights = {key: np.float64(value) for key, value in frontend.to_canonical(layer).items()}
    expected, states = reference.stack(
        layer.spec, weights, np.float64(x), masks=inside, dropout=[array(masks.dropout[0])]
    )
    result = frontend.call(layer, x, dropout_masks=masks)
    np.testing.assert_allclose(result.output, expected, rtol=0, atol=1e-5)
    for h, c, (h_ref, c_ref) in zip(result.h, result.c, states, strict=True):
        np.testing.assert_allclose(h, h_ref, rtol=0, atol=1e-5)
        np.testing.assert_allclose(c, c_ref, rtol=0, atol=1e-5)


def test_sampled_masks_are_those_of_a_call_from_the_same_seed(frontend) -> None:
    layer, x = build(frontend), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x), **frontend.generator(3))
    np.testing.assert_array_equal(
        frontend.call(layer, x, dropout_masks=masks).output, frontend.call(layer, x, seed=3).output
    )


def test_a_sequence_in_parts_has_the_dropout_of_the_whole(frontend) -> None:
    layer, x = build(frontend), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x[:, :1]), 5, **frontend.generator(3))
    whole = frontend.call(layer, x, dropout_masks=masks)
    outputs, state = [], None
    for span in (slice(0, 2), slice(2, 3), slice(3, None)):
        part = frontend.call(layer, x[:, span], state, dropout_masks=masks[span])
        outputs.append(part.output)
        state = part.states
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole.output, rtol=0, atol=1e-6)
    for one, other in zip((*state[0], *state[1]), (*whole.h, *whole.c), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    # without the masks, the parts have other dropout
    apart = frontend.call(layer, x[:, 2:], frontend.call(layer, x[:, :2], seed=3).states, seed=3).output
    assert np.abs(apart - whole.output[:, 2:]).max() > 0.01


def test_frames_without_a_batch_take_masks_with_a_batch_of_one(frontend) -> None:
    layer, x = build(frontend), normal(5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x), **frontend.generator(3))
    assert frontend.channels_first(masks.dropout[0]).shape == (1, 5, 4, 6, 7)
    alone = frontend.call(layer, x, dropout_masks=masks).output
    np.testing.assert_allclose(alone, frontend.call(layer, x[None], dropout_masks=masks).output[0], rtol=0, atol=1e-6)


def test_a_layer_without_a_random_part_takes_its_empty_masks(frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 2, [4, 3], 3), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x))
    assert not masks.masks
    np.testing.assert_array_equal(
        frontend.call(layer, x, dropout_masks=masks[:5]).output, frontend.call(layer, x).output
    )


def test_masks_of_other_steps_are_refused_with_the_slice_to_write(frontend, refused) -> None:
    layer, x = build(frontend), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x))
    with refused(ShapeError, "dropout_masks"):
        frontend.call(layer, x[:, :3], dropout_masks=masks)
    with pytest.raises(ShapeError, match=r"as in `masks\[:3\]`"):
        frontend.call(layer, x[:, :3], dropout_masks=masks)
    for steps in (2, slice(0, 4, 2)):
        with refused(ShapeError, "steps"):
            masks[steps]


def test_masks_belong_to_training_and_exclude_a_seed(frontend, refused) -> None:
    layer, x = build(frontend), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x))
    with refused(SpecError, "dropout_masks"):
        frontend.call(layer, x, seed=0, dropout_masks=masks)
    layer.eval()
    with refused(SpecError, "dropout_masks"):
        frontend.call(layer, x, dropout_masks=masks)


def test_masks_between_layers_may_be_left_out(frontend) -> None:
    layer, x = build(frontend, dropout=0.0), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x))
    assert masks.dropout == (None,)
    np.testing.assert_array_equal(
        frontend.call(layer, x, dropout_masks=DropoutMasks(masks.masks)).output,
        frontend.call(layer, x, dropout_masks=masks).output,
    )
    dropped = build(frontend)
    masks = DropoutMasks(dropped.sample_masks(frontend.native(x)).masks)
    with pytest.raises(ShapeError, match=r"^dropout_masks: expected dropout\[0\] of shape .* got none"):
        frontend.call(dropped, x, dropout_masks=masks)


def changed(masks: DropoutMasks, function: Any) -> DropoutMasks:
    """Return masks with a function applied to each array."""
    inside = {place: LayerMasks(*map(function, of_layer)) for place, of_layer in masks.masks.items()}
    return DropoutMasks(inside, tuple(map(function, masks.dropout)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "bool_"])
def test_masks_of_any_type_act_in_the_type_of_the_call(dtype: str, frontend) -> None:
    rates = {"input_dropout": 0.0, "recurrent_dropout": 0.5, "dropout": 0.5}  # factors of 2, exact in every type
    layer, x = build(frontend, dtype="float32", **rates), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x))
    if dtype == "bool_":  # where a state keeps its old values
        name = "bool" if frontend.name == "torch" else dtype
        kind = getattr(frontend.library, name) if frontend.name != "flax" else bool
        convert = (lambda a: a.to(kind)) if frontend.name == "torch" else (lambda a: a.astype(kind))
        inside = {
            place: one._replace(zoneout_h=convert(one.zoneout_h), zoneout_c=convert(one.zoneout_c))
            for place, one in masks.masks.items()
        }
        other = DropoutMasks(inside, masks.dropout)
    else:
        library = frontend.library.numpy if frontend.name == "flax" else frontend.library
        kind = getattr(library, dtype)
        other = changed(masks, lambda a: a if a is None else a.to(kind) if frontend.name == "torch" else a.astype(kind))
    result = frontend.call(layer, x, dropout_masks=other)
    assert result.output.dtype == np.float32
    np.testing.assert_array_equal(result.output, frontend.call(layer, x, dropout_masks=masks).output)


def test_masks_of_another_form_are_refused_by_name(frontend, refused) -> None:
    layer, x = build(frontend), normal(2, 5, 2, 6, 7)
    masks = layer.sample_masks(frontend.native(x))
    inside, place = dict(masks.masks), (0, "forward")
    plain = {**inside, place: tuple(inside[place])}
    for argument, wrong in {
        "dropout_masks": inside,
        "dropout_masks.masks": DropoutMasks(list(inside.values()), masks.dropout),  # type: ignore[arg-type]
        "dropout_masks.masks[(0, 'forward')]": DropoutMasks(plain, masks.dropout),  # type: ignore[arg-type]
        "dropout_masks.dropout": DropoutMasks(inside, masks.dropout[0]),
    }.items():
        with refused(ShapeError, argument):
            frontend.call(layer, x, dropout_masks=wrong)
    lists = {**inside, place: inside[place]._replace(recurrent="mask")}
    with refused(
        DtypeError if frontend.name != "flax" else ShapeError, "dropout_masks.masks[(0, 'forward')].recurrent"
    ):
        frontend.call(layer, x, dropout_masks=DropoutMasks(lists, masks.dropout))
    imaginary = frontend.to_native(np.zeros((2, 5), np.complex64))
    with refused(DtypeError, "dropout_masks.dropout[0]"):
        frontend.call(layer, x, dropout_masks=DropoutMasks(inside, (imaginary,)))


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
def test_numpy_masks_are_refused_where_numpy_frames_are(frontend, refused) -> None:
    layer, x = build(frontend), normal(2, 5, 2, 6, 7)
    masks = changed(layer.sample_masks(frontend.native(x)), frontend.to_numpy)
    with refused(DtypeError, "dropout_masks.masks[(0, 'forward')].input"):
        frontend.call(layer, x, dropout_masks=masks)


def test_masks_sampled_before_a_layer_changes_its_type_stay_valid() -> None:
    torch = pytest.importorskip("torch")
    from convlstm.torch import ConvLSTM

    layer, x = ConvLSTM(2, [4, 3], 3, **RATES), torch.randn(2, 5, 2, 6, 7)
    masks = layer.sample_masks(x)
    output, (h_n, c_n) = layer.bfloat16()(x.bfloat16(), dropout_masks=masks)
    assert (output.dtype, h_n[0].dtype, c_n[0].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    expected, _ = layer.float()(x.bfloat16().float(), dropout_masks=masks)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=2e-2)


def test_time_first_layers_take_batch_first_masks() -> None:
    torch = pytest.importorskip("torch")
    from convlstm.torch import ConvLSTM

    layer = ConvLSTM.from_spec(ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, zoneout_h=0.5))
    x = torch.randn(2, 5, 2, 6, 7)
    masks = layer.sample_masks(x)
    output = layer(x, dropout_masks=masks)[0]
    layer.batch_first = False
    assert masks.masks[0, "forward"].zoneout_h.shape == (2, 5, 3, 6, 7)
    torch.testing.assert_close(layer(x.transpose(0, 1), dropout_masks=masks)[0].transpose(0, 1), output)
    sampled = layer.sample_masks(x.transpose(0, 1)).masks[0, "forward"].zoneout_h
    assert sampled.shape == (2, 5, 3, 6, 7)
