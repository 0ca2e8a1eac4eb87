"""The model that comes with the package: its file, its card, the data it accepts, and its skill on unseen hours."""

import re

import numpy as np
import pytest

from convlstm.data import open_frames, sample_path
from convlstm.errors import DataError, WeightsError
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.nowcast.baselines import optical_flow
from convlstm.nowcast.frameworks import build_trainer
from convlstm.nowcast.model_card import model_card
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.moving_frame import with_known
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.reference.forecaster import forecast as reference_forecast
from convlstm.weights.checkpoint import load_model, save_model


@pytest.fixture(scope="module")
def nowcaster():
    return load_nowcaster(shipped_model())


@pytest.fixture(scope="module")
def sample():
    return open_frames(sample_path())


def test_the_file_is_small_and_names_no_reading_options():
    path = shipped_model()
    assert path.stat().st_size < 3e6
    extra = load_model(path).extra
    assert extra["provenance"]["config"]["data"]["units"] is None
    assert extra["pipeline"]["days"]["train"] == [f"2018-05-{day}" for day in range(10, 17)]


def test_the_card_has_the_data_the_scores_the_cuts_and_the_digest():
    card = model_card(shipped_model())
    model = load_model(shipped_model())
    for words in (model.digest, "Deutscher Wetterdienst", "2018-05-17", "## Limits", "## Cuts", "## Reliability"):
        assert words in card
    # CSI with its interval at six lead times
    row = next(line for line in card.partition("## CSI ≥ 1 mm/h")[2].splitlines() if line.startswith("| this model"))
    values = [tuple(map(float, cell)) for cell in re.findall(r"(0\.\d{3}) \((0\.\d{3}) to (0\.\d{3})\)", row)]
    assert len(values) == 6
    assert all(lower < value < upper for value, lower, upper in values)


def test_unseen_rain_is_forecast_better_than_by_optical_flow(nowcaster, sample):
    """Every fourth start of the last day, which no training used: CSI at 1 mm/h at 15, 30 and 60 minutes."""
    last_day = np.flatnonzero(sample.time.dt.strftime("%Y-%m-%d").values == "2018-05-20")
    leads = np.array([15, 30, 60]) * 60.0
    counts = np.zeros((2, len(leads), 2))
    for end in last_day[5:-12:4]:
        window = slice(end - 5, end + 1)
        inputs, seconds = sample.read(window), sample.seconds[window]
        observed = sample.read(end + (leads // 300).astype(int))[:, 0] >= 1
        ours = nowcaster.predict(inputs[None], seconds[None], leads)[0, :, 0] >= 1
        theirs = optical_flow(inputs, seconds, leads)[:, 0] >= 1
        for method, event in enumerate((ours, theirs)):
            counts[method, :, 0] += (event & observed).sum(axis=(1, 2))
            counts[method, :, 1] += (event | observed).sum(axis=(1, 2))
    csi = counts[..., 0] / counts[..., 1]
    assert (csi[0] > csi[1]).all(), csi


def wide_cells(make_rain):
    axes = {name: (name, 4000.0 * np.arange(size), {"units": "m"}) for name, size in (("x", 18), ("y", 22))}
    return make_rain().assign_coords(axes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda make_rain: make_rain(step=600), "time step: expected 300 s, as in the training"),
        (wide_cells, "grid spacing: expected about 1 km, as in the training, got 4 km"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_line(nowcaster, make_rain, read, make, words):
    with pytest.raises(DataError) as caught:
        nowcaster.pipeline.check(read(make(make_rain)))
    assert words in str(caught.value)
    assert "train a model on this data" in str(caught.value)


@pytest.mark.parametrize("framework", ["torch", "flax", "mlx", "keras"])
def test_every_framework_gives_the_numbers_of_the_reference(framework, sample):
    pytest.importorskip({"flax": "jax"}.get(framework, framework))
    model = load_model(shipped_model())
    transform = load_nowcaster(shipped_model()).pipeline.transform
    inputs = with_known(transform.forward(sample.read(slice(500, 506), (slice(24), slice(32)))))[None]
    trainer = build_trainer(framework, model.spec, model.weights, Optimisation(precision="float32"))
    received = trainer.predict(Sample(inputs, inputs[:, :0], inputs[:, :0]), 4)
    weights = {key: np.float64(value) for key, value in model.weights.items()}
    expected = reference_forecast(model.spec, weights, np.float64(inputs), 4)
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("entry", "place"),
    [([], "card"), ({"tables": [{"title": "Scores"}]}, "card.tables.0.columns"), ({"sections": {"Limits": 3}}, "card")],
)
def test_a_damaged_card_is_one_line(entry, place, tmp_path):
    model = load_model(str(shipped_model()))
    path = tmp_path / "model.safetensors"
    save_model(path, model.spec, model.weights, {**model.extra, "card": entry})
    with pytest.raises(WeightsError, match=f"the entry {place}"):
        model_card(path)
