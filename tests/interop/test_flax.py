"""Flax linen's and Haiku's own layers, really run, against what is read of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("haiku")
import haiku as hk
import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from convlstm import ConvLSTMSpec
from convlstm.errors import SpecError, WeightsError
from convlstm.interop import read_haiku, read_linen, write_linen
from convlstm.weights.canonical import initialise

SIZE = (6, 5, 4)


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def frames(rank=2, channels=2):
    return np.random.default_rng(0).standard_normal((2, 3, *SIZE[:rank], channels))


def drawn(init, x):
    """Parameters of the model's own names and shapes, with values of ours: biases too are not zero."""
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(init, jax.random.key(0), x)
    return jax.tree.map(lambda a: 0.3 * random.standard_normal(a.shape), shapes)


def first(x):
    return np.moveaxis(np.asarray(x), -1, 2)


def cell(features, rank=2, **options):
    return nn.ConvLSTMCell(features, (3, 2, 3)[:rank], param_dtype="float64", **options)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("use_bias", [True, False])
def test_linen_alone(same_numbers, rank, use_bias):
    x = frames(rank)
    model = nn.RNN(cell(3, rank, use_bias=use_bias), return_carry=True)
    params = drawn(model.init, x)
    (c, h), y = jax.jit(model.apply)(params, x)
    states = [tuple(np.moveaxis(np.asarray(part), -1, 1) for part in (h, c))]
    for given in (params, params["params"], {"/".join(k): v for k, v in flatten_dict(params).items()}):
        converted = read_linen(given)
        same_numbers(converted, first(x), first(y), states)
        assert converted.spec.bias
    assert any("stored nowhere" in line for line in converted.notes.differences)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (lambda: nn.Sequential([nn.RNN(cell(n)) for n in (4, 3)]), {}),
        (lambda: nn.Bidirectional(nn.RNN(cell(3)), nn.RNN(cell(3))), {}),
        (lambda: nn.Bidirectional(nn.RNN(cell(3)), nn.RNN(cell(3)), merge_fn=lambda a, b: a + b), {"merge": "sum"}),
        (lambda: nn.RNN(cell(3), reverse=True, keep_order=True), {"direction": "reverse"}),
        (lambda: nn.Sequential([nn.Bidirectional(nn.RNN(cell(2)), nn.RNN(cell(2))) for _ in range(2)]), {}),
    ],
    ids=["stack", "two ways", "sum", "reverse", "stack of two ways"],
)
def test_linen_around_the_cell(same_numbers, model, options):
    x = frames()
    params = drawn(model().init, x)
    converted = read_linen(params, **options)
    same_numbers(converted, first(x), first(jax.jit(model().apply)(params, x)))
    if "merge" not in options:  # what was read goes back into the same model, and comes again to the last bit
        written = write_linen(converted.spec, converted.weights)
        assert {tuple(key.split("/")) for key in written} == set(flatten_dict(params))
        again = model().apply(unflatten_dict(written, sep="/"), x)
        same_numbers(converted, first(x), first(again))
    back = read_linen(write_linen(converted.spec, converted.weights), **options)
    assert back.spec == converted.spec
    assert {k: v.tobytes() for k, v in back.weights.items()} == {k: v.tobytes() for k, v in converted.weights.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_one_of_every_call_is_taken_back_without_rounding(dtype):
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=5, kernel_size=3)
    weights = {
        k: np.random.default_rng(0).standard_normal(v.shape).astype(dtype) for k, v in initialise(spec, 0).items()
    }
    back = read_linen(write_linen(spec, weights))
    assert {k: v.tobytes() for k, v in back.weights.items()} == {k: v.tobytes() for k, v in weights.items()}


def test_a_layer_without_bias_computes_the_same_in_linen(same_numbers):
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, bias=False)
    weights = initialise(spec, 0)
    x = frames()
    written = unflatten_dict(write_linen(spec, weights), sep="/")
    y = nn.RNN(nn.ConvLSTMCell(3, (3, 3), param_dtype="float64")).apply(written, x)
    same_numbers(read_linen(written), first(x), first(y))
    np.testing.assert_array_equal(read_linen(written).weights["layers.0.forward.bias"], 0.0)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_haiku(same_numbers, rank):
    core = (hk.Conv1DLSTM, hk.Conv2DLSTM, hk.Conv3DLSTM)[rank - 1]

    def run(x):
        stack = hk.DeepRNN([core(SIZE[:rank], 4, 3), core(SIZE[:rank], 2, 2)])
        return hk.dynamic_unroll(stack, x, stack.initial_state(2), time_major=False)

    x = frames(rank)
    model = hk.without_apply_rng(hk.transform(run))
    params = drawn(model.init, x)
    y, states = jax.jit(model.apply)(params, x)
    states = [tuple(np.moveaxis(np.asarray(part), -1, 1) for part in (s.hidden, s.cell)) for s in states]
    for given in (params, {f"{m}/{n}": v for m, n, v in hk.data_structures.traverse(params)}):
        converted = read_haiku(given)
        same_numbers(converted, first(x), first(y), states)
    assert [len(places) for places in (converted.notes.layers, converted.notes.left_out)] == [2, 0]


def test_layers_with_others_between_must_be_named(refused):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.RNN(cell(4))(x)
            x = nn.LayerNorm(param_dtype="float64")(x)
            return nn.RNN(cell(4))(x)

    params = drawn(Net().init, frames())
    with refused(WeightsError, "layer"):
        read_linen(params)
    one = read_linen(params, layers=["ConvLSTMCell_1"])
    assert one.notes.layers == ("params.ConvLSTMCell_1",)
    assert len(one.notes.left_out) == 4 + 2
    assert read_linen(params, layers=["ConvLSTMCell_0", "ConvLSTMCell_1"]).spec.depth == 2
    with refused(WeightsError, "layer"):
        read_linen(params, layers=["ConvLSTMCell_2"])
    with refused(WeightsError, "params.ConvLSTMCell_0"):
        read_linen(params, layers=["ConvLSTMCell_1", "ConvLSTMCell_0"])


def test_options_the_cell_does_not_have(refused):
    x = frames()
    model = nn.Bidirectional(nn.RNN(cell(3)), nn.RNN(cell(3)))
    params = drawn(model.init, x)
    with refused(SpecError, "stride"):
        read_linen(params, stride=2)
    with refused(SpecError, "direction"):
        read_linen(params, direction="reverse")
    one = {"cell": params["params"]["forward_rnn"]["cell"]}
    with refused(SpecError, "direction"):
        read_linen(one, direction="bidirectional")
    with refused(SpecError, "merge"):
        read_linen(one, merge="sum")
    assert read_linen(one, direction="reverse").spec.direction == "reverse"
