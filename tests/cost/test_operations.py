"""Costs compared with published numbers, sums by hand, PyTorch's counter, and measured memory."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.inspect_memory import CASES, estimated, measure_in_process
from torch.utils.flop_counter import FlopCounterMode

from convlstm.conformance.random_layers import random_case
from convlstm.cost.memory import checkpointed_memory, runs, training_memory
from convlstm.cost.operations import forecast_reach, model_cost, receptive_fields
from convlstm.cost.workload import Workload, calls
from convlstm.engine.torch import fused as torch_fused
from convlstm.errors import ShapeError, SpecError
from convlstm.reference import forecaster as reference_forecaster
from convlstm.reference import recurrence as reference
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.presets import PRESETS
from convlstm.torch import ConvLSTM, Forecaster
from convlstm.weights.canonical import initialise, parameter_count

WIDE = ConvLSTMSpec(in_channels=64, hidden_channels=64, kernel_size=3)


@pytest.mark.parametrize(
    ("preset", "shape", "horizon", "gmac"),
    [
        ("openstl-mmnist-s", (10, 1, 64, 64), 10, 56.79),
        ("openstl-mmnist-l", (10, 1, 64, 64), 10, 127.02),
        ("openstl-mmnist-cifar-s", (10, 3, 64, 64), 10, 58.80),
        ("openstl-kitticaltech", (10, 3, 128, 160), 1, 595.15),
        ("openstl-kth", (10, 1, 128, 128), 20, 1368.45),
        ("openstl-taxibj", (4, 2, 32, 32), 4, 20.74),
    ],
)
def test_openstl_prints_the_same_multiply_adds(preset, shape, horizon, gmac):
    cost = model_cost(PRESETS[preset], Workload(shape=shape, horizon=horizon))
    # OpenSTL's output convolution also runs on the input frames but the last; ours on the forecast frames alone
    heads = cost.head.forward_flop / horizon * (shape[0] - 1)
    assert (cost.forward_flop + heads) / 2e9 == pytest.approx(gmac, abs=0.005)


def test_the_wide_case():
    cost = model_cost(WIDE, Workload(shape=(10, 64, 64, 64), batch=8))
    one = 2 * 8 * 10 * 64**2 * 256 * 64 * 9  # FLOP of the input convolution, and of the recurrent one
    assert cost.forward_flop == 2 * one
    assert cost.training_flop == 5 * one  # of the input without its own gradient, of h with it
    assert round(cost.forward_flop / 1e9), round(cost.training_flop / 1e9) == (193, 483)


def test_by_hand():
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, spatial_dims=1)
    cost = model_cost(spec, Workload(shape=(2, 2, 5)))
    of_input, of_state = 2 * (2 * 5 * 12 * 2 * 3), 2 * (2 * 5 * 12 * 3 * 3)  # 2 · time · points · 4·3 · channels · 3
    assert cost.forward_flop == of_input + of_state == 3600
    assert cost.training_flop == 2 * of_input + 3 * of_state == 9360
    assert cost.parameters == 12 * 2 * 3 + 12 * 3 * 3 + 12 == 192
    layer = cost.layers[0]
    assert (layer.grid, layer.receptive_field, layer.growth) == ((5,), (3,), (2,))
    # 4 forms of the weights; 2 × 4 gates, 3 × h and 3 × c, each 3 channels of 5 points
    assert layer.training_bytes == 4 * (4 * 192 + (8 + 6) * 15)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_layers_and_head_make_the_model(preset):
    spec = PRESETS[preset]
    cost = model_cost(spec, Workload(shape=(4, spec.frame_channels, 32, 32)))
    assert cost.parameters == parameter_count(spec)


@pytest.fixture
def plain(monkeypatch):
    """Every layer takes the generic implementation, whose convolutions PyTorch's counter sees."""
    monkeypatch.setattr(torch_fused, "serves", lambda layer, state: False)


def random_layer(seed, **fixed):
    """A random stack, and frames for it: 3 steps on its grid."""
    case = random_case(seed, **fixed)
    return case.spec, (3, case.spec.in_channels, *case.arrays["x"].shape[3:])


def zero_states(spec, size):
    """Initial states that need a gradient, for a batch of 2."""
    return tuple(
        tuple(
            torch.zeros(2, layer.hidden_channels, *grid).requires_grad_()
            for layer, grid in zip(spec.layers, spec.grids(size), strict=True)
            for _ in spec.directions
        )
        for _ in "hc"
    )


def times(spec):
    """Durations and gaps of a layer that uses them."""
    gaps = tuple(torch.ones(2, 3) for _ in spec.directions) if spec.memory_decay else None
    return {"durations": None if spec.duration_strategy == "none" else 1.0, "gaps": gaps}


def counted(counter):
    flops = counter.get_flop_counts()["Global"]
    aten = torch.ops.aten
    return flops.get(aten.convolution, 0), flops.get(aten.convolution, 0) + flops.get(aten.convolution_backward, 0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("plain")
def test_flop_of_random_layers_are_those_that_pytorch_counts(seed):
    # one group, since the counter takes each weight gradient of a grouped convolution `groups` times
    spec, shape = random_layer(seed, groups=1)
    with FlopCounterMode(display=False) as counter:
        states = zero_states(spec, shape[2:])
        output, (last, _) = ConvLSTM.from_spec(spec)(torch.zeros(2, *shape), states, **times(spec))
        parts = output if isinstance(output, tuple) else (output,)
        sum(part.sum() for part in (*parts, *last)).backward()
    cost = model_cost(spec, Workload(shape=shape, batch=2))
    assert (cost.forward_flop, cost.training_flop) == counted(counter)


@pytest.mark.usefixtures("plain")
def test_flop_of_a_stack_without_input_are_those_that_pytorch_counts():
    spec = ConvLSTMSpec(in_channels=0, hidden_channels=[4, 3], kernel_size=3, recurrent_dilation=2)
    with FlopCounterMode(display=False) as counter:
        output, (last, _) = ConvLSTM.from_spec(spec)(None, zero_states(spec, (8, 6)), steps=3)
        (output.sum() + sum(part.sum() for part in last)).backward()
    cost = model_cost(spec, Workload(shape=(3, 0, 8, 6), batch=2))
    assert (cost.forward_flop, cost.training_flop) == counted(counter)
    assert cost.parameters == parameter_count(spec)
    assert receptive_fields(spec) == [((1, 1), (4, 4)), ((3, 3), (4, 4))]  # in the initial state of the first layer


@pytest.mark.parametrize("rollout", ["states", "feedback"])
@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.usefixtures("plain")
def test_flop_of_forecasters_are_those_that_pytorch_counts(rollout, horizon):
    stack = ConvLSTMSpec(
        in_channels=8, hidden_channels=[4, 3], kernel_size=[(3, 3), (5, 5)], recurrent_kernel_size=[(1, 1), (3, 3)]
    )
    spec = ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2, rollout=rollout)
    with FlopCounterMode(display=False) as counter:
        Forecaster(spec)(torch.zeros(2, 3, 2, 8, 6), horizon).sum().backward()
    cost = model_cost(spec, Workload(shape=(3, 2, 8, 6), batch=2, horizon=horizon))
    assert (cost.forward_flop, cost.training_flop) == counted(counter)


DETAIL = {"detail_channels": 5, "detail_frames": 3, "detail_kernel": 5}


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (DETAIL, 4),
        (DETAIL | {"thresholds": (0.1, 1.0, 5.0)}, 2),  # an absent frame is convolved as zeros
        ({"detail_channels": 2, "detail_kernel": 1, "head_bias": False, "residual": True}, 3),
        ({"thresholds": (0.1, 1.0, 5.0)}, 3),
    ],
)
@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.usefixtures("plain")
def test_flop_of_outputs_are_those_that_pytorch_counts(options, steps, horizon):
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=[4, 3], kernel_size=3)
    spec = ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2, **options)
    with FlopCounterMode(display=False) as counter:
        Forecaster(spec)(torch.zeros(2, steps, 2, 8, 6), horizon).sum().backward()
    cost = model_cost(spec, Workload(shape=(steps, 2, 8, 6), batch=2, horizon=horizon))
    assert (cost.forward_flop, cost.training_flop) == counted(counter)
    assert cost.parameters == parameter_count(spec)


def test_convolutions_of_the_output_by_hand():
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=7, kernel_size=3)
    spec = ForecasterSpec(encoder=stack, patch_size=2, detail_channels=5, detail_frames=3, thresholds=(0.1, 1.0))
    cost = model_cost(spec, Workload(shape=(3, 1, 8, 6), batch=2, horizon=4))
    pixels, features = 2 * 8 * 6, 5 + 3
    assert [(part.name, part.parameters, part.forward_flop, part.training_flop) for part in cost.convolutions] == [
        ("head", 2 * features * (7 + 1), flop := 2 * (pixels // 4 * 4) * 2 * features * 7, 3 * flop),
        ("detail.0", 5 * (3 * 9 + 1), flop := 2 * pixels * 5 * 3 * 9, 2 * flop),
        ("detail.1", 5 * (5 * 9 + 1), flop := 2 * pixels * 5 * 5 * 9, 3 * flop),
        ("output", 2 * (features + 1), flop := 2 * (pixels * 4) * 2 * features, 3 * flop),
    ]
    assert not model_cost(stack, Workload(shape=(3, 4, 8, 6))).convolutions


def test_groups_divide_the_input_convolution():
    whole = ConvLSTMSpec(in_channels=4, hidden_channels=4, kernel_size=3)
    work = Workload(shape=(1, 4, 6, 6))
    halved = model_cost(replace(whole, groups=2), work).forward_flop
    assert halved == model_cost(whole, work).forward_flop * 3 // 4


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_channels": 2, "kernel_size": 3},
        {"hidden_channels": [2, 2], "kernel_size": [5, 2], "recurrent_kernel_size": [1, 4]},
        {"hidden_channels": [2, 2], "kernel_size": 3, "stride": [2, 1], "recurrent_kernel_size": [3, 5]},
        {"hidden_channels": [2, 1, 2], "kernel_size": 3, "dilation": [1, 4, 1], "recurrent_kernel_size": [5, 1, 1]},
        {"hidden_channels": [2, 2], "kernel_size": 3, "stride": [1, 2], "recurrent_dilation": [2, 3]},
    ],
)
def test_a_layer_sees_as_far_as_it_says(options):
    spec = ConvLSTMSpec(in_channels=1, spatial_dims=1, **options)
    steps, points = 3, 61
    weights = {key: value + 0.3 for key, value in initialise(spec, 0).items()}
    frames = np.zeros((points + 1, steps, 1, points))
    for before, ((field,), (growth,)) in enumerate([receptive_fields(spec)[-1]] * steps):
        moved = frames.copy()
        moved[np.arange(points), steps - 1 - before, 0, np.arange(points)] = 1.0  # the last row stays as it is
        output, _ = reference.stack(spec, weights, moved)
        middle = output[:, -1, :, output.shape[-1] // 2]
        seen = np.flatnonzero((middle[:-1] != middle[-1]).any(axis=1))
        assert seen[-1] - seen[0] + 1 == field + before * growth


def test_a_forecaster_sees_as_far_as_it_says():
    stack = ConvLSTMSpec(
        in_channels=4, hidden_channels=[2, 2], kernel_size=[(3, 3), (1, 1)], recurrent_kernel_size=[(1, 1), (3, 3)]
    )
    spec = ForecasterSpec(encoder=stack, patch_size=2)
    cost = model_cost(spec, Workload(shape=(2, 1, 40, 8)))
    field, growth = cost.layers[-1].receptive_field[0], cost.layers[-1].growth[0]
    assert (cost.layers[-1].part, field, growth) == ("forecaster", 10, 4)
    weights = {key: value + 0.3 for key, value in initialise(spec, 0).items()}
    for before in (0, 1):
        frames = np.zeros((2, 2, 1, 40, 8))
        frames[1, 1 - before, 0, 20, 4] = 1.0
        plain, moved = reference_forecaster.forecast(spec, weights, frames, 3)
        for lead in range(3):
            rows = np.flatnonzero((plain[lead] != moved[lead]).any(axis=(0, 2)))
            assert rows[-1] - rows[0] + 1 == field + (before + lead) * growth


def test_a_norm_sees_the_whole_frame():
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, norm="layer")
    layer = model_cost(spec, Workload(shape=(2, 1, 12, 9))).layers[0]
    assert (layer.receptive_field, layer.growth) == ((12, 9), (0, 0))


PLAINEST = {"boundary": "zeros", "groups": 1, "norm": "none", "norm_groups": None, "duration_strategy": "none"}
PLAINEST |= {"activation": "tanh", "recurrent_activation": "sigmoid", "peephole": "channel", "memory_decay": False}
PLAINEST |= dict.fromkeys(["dropout", "input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c"], 0.0)


@pytest.mark.parametrize("seed", range(40))
def test_the_paths_are_those_that_the_engine_takes(seed, monkeypatch):
    spec, shape = random_layer(seed, **PLAINEST) if seed % 2 else random_layer(seed)
    taken = []
    fused = torch_fused.sequence
    monkeypatch.setattr(torch_fused, "sequence", lambda *a, **o: (taken.append(a[0].index), fused(*a, **o))[1])
    if spec.in_channels:
        ConvLSTM.from_spec(spec)(torch.zeros(2, *shape), **times(spec))
    else:
        ConvLSTM.from_spec(spec)(None, zero_states(spec, shape[2:]), steps=shape[0], **times(spec))
    call = calls(spec, Workload(shape=shape, batch=2))[0]
    assert taken == [run.layer.index for layer in runs(call, 2, 4) for run in layer if run.is_fused]
    assert len(taken) == spec.depth * len(spec.directions) or not seed % 2


@pytest.mark.parametrize("peephole", ["none", "channel"])
def test_a_forecast_fed_back_keeps_what_pytorch_saves(peephole, monkeypatch):
    # with hooks the outputs are copies; this hook only counts
    monkeypatch.setattr("convlstm.engine.torch.fused.saved_tensors_are_replaced", lambda: False)
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3, peephole=peephole)
    spec, said, saved = ForecasterSpec(encoder=stack, patch_size=2, rollout="feedback"), [], []
    for horizon in (2, 5):
        cost = model_cost(spec, Workload(shape=(3, 1, 8, 6), batch=2, horizon=horizon))
        frames = horizon * 4 * 2 * 8 * 6  # fed back as patches of float32
        said.append(sum(layer.training_bytes for layer in cost.layers) + frames)
        kept = []  # held, so that no address is used twice
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            Forecaster(spec)(torch.zeros(2, 3, 1, 8, 6), horizon)
        areas = {area.data_ptr(): area.nbytes() for area in (x.untyped_storage() for x in kept)}
        saved.append(sum(areas.values()))
    assert said[1] - said[0] == saved[1] - saved[0]


def test_training_memory_by_hand():
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3)
    weights, points = 4 * (12 * 2 * 9 + 12 * 3 * 9 + 12), 4 * 5
    state, frames = 4 * 3 * points, 4 * 2 * 2 * points  # h or c of one step; the frames of two steps
    saved = 2 * 4 * state + 3 * 2 * state  # the gates of two steps; h and c before, between and after them
    kernels = 4 * 5 * 12 * 3 * 9  # W_hh flipped, and four forms of its gradient
    workspace = 2 * state + kernels + max(4 * state * 5 // 2, frames)  # dh and dc; the gates or the frames
    backward = saved + 2 * state + workspace  # with the gradient of the output
    assert training_memory(spec, Workload(shape=(2, 2, 4, 5))) == frames + 4 * weights + backward


def test_loss_and_optimiser_by_hand():
    thin = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, bias=False)
    frames = output = 4 * 9 * 1000  # nine steps of 20 × 50 points
    saved = 4 * output + 2 * output * 10 // 9
    loss = 4 * output - 4 * 8  # a mean square has four arrays; the gradients of the previous step are deleted
    assert training_memory(thin, Workload(shape=(9, 1, 20, 50))) == frames + 4 * 4 * 8 + saved + loss
    heavy = ConvLSTMSpec(in_channels=1, hidden_channels=64, kernel_size=5)
    w_hh = 4 * 256 * 64 * 25
    least = 4 * 4 * parameter_count(heavy) + 2 * w_hh  # AdamW has two temporary arrays of each weight
    assert least < training_memory(heavy, Workload(shape=(1, 1, 4, 4)))


def measured_cases():
    """Return estimate and measurement in MB by case, from the table in docs/inspect.md."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    return {name: (int(estimate), int(measured)) for name, estimate, measured in rows}


def test_estimates_are_near_the_measured_peaks():
    table = measured_cases()
    assert table.keys() == CASES.keys()
    for name, (estimate, measured) in table.items():
        assert round(estimated(CASES[name]) / 1e6) == estimate, f"docs/inspect.md has another estimate of {name}"
        assert estimate == pytest.approx(measured, rel=0.15), name


def test_a_checkpoint_saves_memory():
    work = Workload(shape=(64, 64, 64, 64))
    assert checkpointed_memory(WIDE, work, 8) < 0.6 * training_memory(WIDE, work)


@pytest.mark.slow  # on a busy machine the peak varies; docs/inspect.md has the whole table
@pytest.mark.skipif(sys.platform != "linux", reason="glibc returns freed arrays to the system")
def test_training_memory_is_what_a_process_takes():
    name = "forecaster, feedback"
    # other work on the machine can only add to what a process takes: the least of three measurements counts
    measured = min(measure_in_process(name, {"MALLOC_MMAP_THRESHOLD_": "131072"}) for _ in range(3))
    assert estimated(CASES[name]) == pytest.approx(measured, rel=0.15)


def test_memory_grows_with_what_it_is_made_of():
    def bytes_of(spec=WIDE, **given):
        return model_cost(spec, Workload(**({"shape": (10, 64, 64, 64), "batch": 2} | given))).training_bytes

    assert bytes_of(batch=8) - bytes_of(batch=7) == pytest.approx(bytes_of(batch=7) - bytes_of(batch=6), rel=1e-3)
    assert bytes_of(precision="bfloat16") < 0.95 * bytes_of()
    assert bytes_of(replace(WIDE, recurrent_dropout=0.1)) > 1.2 * bytes_of()  # the generic implementation keeps more


def stack(channels, **options):
    return ConvLSTMSpec(in_channels=channels, hidden_channels=2, kernel_size=3, **options)


PIXELS = {"peephole": "pixel", "input_size": (4, 4)}
MISFITS = {
    "channels": (ForecasterSpec(encoder=stack(4), patch_size=2), (2, 3, 8, 8)),
    "axes": (ForecasterSpec(encoder=stack(4), patch_size=2), (2, 1, 8)),
    "patches": (ForecasterSpec(encoder=stack(4), patch_size=2), (2, 1, 9, 8)),
    "pixels": (ForecasterSpec(encoder=stack(4, **PIXELS), patch_size=2), (2, 1, 8, 4)),
    "channels of a layer": (stack(2), (5, 3, 8, 8)),
    "axes of a layer": (stack(2), (5, 2, 8)),
    "axes of a line": (stack(2, spatial_dims=1), (5, 2, 8, 8)),
    "pixels of a layer": (stack(2, **PIXELS), (5, 2, 8, 4)),
    "too small": (stack(2, padding="valid"), (5, 2, 8, 2)),
}


@pytest.mark.parametrize("name", MISFITS)
def test_frames_are_refused_in_the_models_own_words(name):
    spec, shape = MISFITS[name]
    frames = torch.zeros(1, *shape)
    with pytest.raises(ShapeError) as own:
        Forecaster(spec)(frames, 2) if isinstance(spec, ForecasterSpec) else ConvLSTM.from_spec(spec)(frames)
    with pytest.raises(ShapeError) as said:
        model_cost(spec, Workload(shape=shape))
    assert str(said.value) == str(own.value)


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("input", {"shape": (0, 1, 8, 8)}),
        ("batch", {"shape": (1, 1, 8, 8), "batch": 0}),
        ("horizon", {"shape": (1, 1, 8, 8), "horizon": 0}),
        ("precision", {"shape": (1, 1, 8, 8), "precision": "half"}),
    ],
)
def test_a_workload_that_cannot_be(argument, given, refused):
    with refused(SpecError, argument):
        Workload(**given)


@pytest.mark.parametrize(
    "options",
    [
        {"patch_size": 2},
        {"patch_size": 2, "detail_channels": 2},
        {"patch_size": 1, "detail_channels": 2, "detail_kernel": 21},
        {"patch_size": 1, "rollout": "feedback"},
        {"patch_size": 2, "rollout": "feedback", "residual": True},
    ],
)
def test_a_forecast_depends_on_the_input_within_its_reach_and_no_further(options):
    stack = ConvLSTMSpec(
        in_channels=options["patch_size"] ** 2,
        hidden_channels=[3, 2],
        kernel_size=[[3, 3], [5, 5]],
        recurrent_kernel_size=[[5, 5], [3, 3]],
    )
    spec = ForecasterSpec(encoder=stack, **options)
    torch.manual_seed(0)
    model = Forecaster(spec, dtype=torch.float64)
    steps, horizon, side, patch = 2, 3, 80, spec.patch_size
    frames = torch.randn(1, steps, 1, side, side, dtype=torch.float64, requires_grad=True)
    middle = side // 2  # the first cell of its patch
    model(frames, horizon)[0, -1, 0, middle, middle].backward()
    rows = torch.nonzero(frames.grad.abs().sum(dim=(0, 1, 2, 4))).ravel()
    reach = forecast_reach(spec, steps, horizon)
    assert 0 < reach < side // 2 - patch
    assert middle - int(rows.min()) == reach
    assert int(rows.max()) - middle <= reach + patch - 1
