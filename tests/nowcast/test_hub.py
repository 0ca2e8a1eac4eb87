"""Models as folders of the Hugging Face Hub: their files, their readers, and the transfer to and from a server."""

import json
import sys

import numpy as np
import pytest
import yaml
from tests.nowcast.hub_server import COMMIT, running_hub

from convlstm import ConvLSTMSpec
from convlstm import hub as hub_module
from convlstm.cost.inspection import read_subject
from convlstm.errors import ConfigError, DependencyError, OutputError, WeightsError
from convlstm.hub import from_pretrained, push_to_hub, save_folder, snapshot
from convlstm.nowcast import Nowcaster
from convlstm.nowcast.model_card import model_card
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.start_model import load_start
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model

NAMES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model in the package as a folder; no test may change it."""
    return save_folder(tmp_path_factory.mktemp("hub") / "rain")


@pytest.fixture
def layer(tmp_path):
    """A layer as a model file."""
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3)
    weights = {key: np.float32(array) for key, array in initialise(spec, 0).items()}
    save_model(tmp_path / "layer.safetensors", spec, weights)
    return tmp_path / "layer.safetensors"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that `huggingface_hub` takes for the Hub, with an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def front_matter(folder):
    """Return the YAML block in front of a card."""
    _, block, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(block)


def test_a_folder_has_a_copy_of_the_model_its_options_and_its_card(folder):
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert (folder / "model.safetensors").read_bytes() == shipped_model().read_bytes()
    model, config = load_model(shipped_model()), json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["kind"], config["digest"]) == ("forecaster", model.digest)
    assert type(model.spec).from_dict(config["spec"]) == model.spec
    assert config["pipeline"] == model.extra["pipeline"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert model_card(shipped_model()) in text


def test_the_front_of_the_card_has_licence_tags_and_the_scores_of_the_tables(folder):
    front = front_matter(folder)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "convlstm"
    assert {"convlstm", "nowcasting"} <= set(front["tags"])
    (result,) = front["model-index"][0]["results"]
    assert "Deutscher Wetterdienst" in result["dataset"]["name"]
    values = {metric["name"]: (metric["type"], metric["value"]) for metric in result["metrics"]}
    tables = {table["title"]: table for table in load_model(shipped_model()).extra["card"]["tables"]}
    for title, kind in (("CSI ≥ 1 mm/h", "csi"), ("RMSE in mm/h", "rmse")):
        row = next(row for row in tables[title]["rows"] if row[0] == "this model")
        cell = row[tables[title]["columns"].index("30 min")]
        assert values[f"{title}, 30 min"] == (kind, float(cell.split()[0]))
    assert len(values) == 4 * 6  # four tables have a row of the model, with six lead times


def test_the_hub_reads_the_front_of_the_card(folder):
    cards = pytest.importorskip("huggingface_hub")
    card = cards.ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert {result.metric_type for result in card.data.eval_results} == {"csi", "rmse"}


def test_every_reader_takes_a_folder(folder):
    digest = load_model(shipped_model()).digest
    assert load_model(folder).digest == digest
    assert Nowcaster.load(folder, threads=1).model.digest == digest
    assert from_pretrained(folder, threads=1).model.digest == digest
    assert load_start(str(folder)).digest == digest
    assert read_subject(str(folder)).digest == digest
    assert model_card(folder) == model_card(shipped_model())


@pytest.mark.parametrize("framework", ["torch", "flax", "mlx"])
def test_frameworks_load_a_layer_from_a_folder(framework, layer, tmp_path):
    module = pytest.importorskip(f"convlstm.{framework}")
    folder = save_folder(tmp_path / "layer", layer)
    loaded = module.to_canonical(module.load(folder))
    for key, array in load_model(layer).weights.items():
        np.testing.assert_array_equal(loaded[key], array)


def test_the_card_of_a_layer_has_its_digest_and_no_licence_that_was_not_passed(layer, tmp_path):
    text = (save_folder(tmp_path / "one", layer, repository="me/layer") / "README.md").read_text(encoding="utf-8")
    assert load_model(layer).digest in text
    assert 'load(snapshot("me/layer"))' in text
    assert front_matter(tmp_path / "one") == {"library_name": "convlstm", "tags": ["convlstm"]}
    save_folder(tmp_path / "two", layer, license="cc-by-4.0")
    assert front_matter(tmp_path / "two")["license"] == "cc-by-4.0"


def test_a_config_that_differs_from_the_model_file_is_refused(layer, tmp_path, refused):
    folder = save_folder(tmp_path / "layer", layer)
    config = folder / "config.json"
    changed = json.loads(config.read_text(encoding="utf-8"))
    changed["spec"]["kernel_size"] = [5, 5]
    other_weights = json.loads(config.read_text(encoding="utf-8")) | {"digest": "0" * 64}
    for text in (json.dumps(changed), json.dumps(other_weights), "{}", "no JSON"):
        config.write_text(text, encoding="utf-8")
        with refused(WeightsError, str(config)):
            load_model(folder)
    config.unlink()
    assert load_model(folder).digest == load_model(layer).digest


def test_a_folder_with_files_is_not_overwritten(layer, tmp_path, refused):
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    save_folder(tmp_path / "clone", layer)  # hidden entries are no files of a model
    before = (tmp_path / "clone" / "README.md").read_bytes()
    with refused(OutputError, str(tmp_path / "clone")):
        save_folder(tmp_path / "clone", layer)
    assert (tmp_path / "clone" / "README.md").read_bytes() == before
    with refused(OutputError, str(layer)):
        save_folder(layer, layer)


@pytest.mark.parametrize("clone", [False, True])
def test_a_folder_that_cannot_be_completed_is_not_left_in_part(layer, tmp_path, monkeypatch, clone):
    folder, write = tmp_path / "new", hub_module.write_atomic
    if clone:
        (folder / ".git").mkdir(parents=True)

    def failing(path, content):
        if path.name == "README.md":
            raise OutputError(str(path), expected="free space", received="none", hint="Free space.")
        return write(path, content)

    monkeypatch.setattr(hub_module, "write_atomic", failing)
    with pytest.raises(OutputError, match="free space"):
        save_folder(folder, layer)
    assert [path.name for path in tmp_path.rglob("*") if path != layer] == (["new", ".git"] if clone else [])


@pytest.mark.parametrize(
    ("argument", "options"),
    [("license", {"license": "CC BY 4.0"}), ("license", {"license": ""}), ("repository", {"repository": "layer"})],
)
def test_names_of_another_form_are_refused(layer, tmp_path, refused, argument, options):
    with refused(ConfigError, argument):
        save_folder(tmp_path / "folder", layer, **options)
    assert not (tmp_path / "folder").exists()


def test_a_path_needs_no_package_of_the_hub(folder, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert snapshot(folder) == folder
    with refused(ConfigError, "revision"):
        snapshot(folder, revision="main")
    with refused(WeightsError, "no/such/folder"):
        snapshot("no/such/folder")
    with refused(DependencyError, "huggingface_hub"):
        from_pretrained("owner/rain")
    with refused(DependencyError, "huggingface_hub"):
        push_to_hub("owner/rain", folder)


def test_an_upload_and_a_download_give_the_same_files(hub, layer):
    address = push_to_hub("owner/layer", layer, license="cc-by-4.0", private=True, token="hf_secret")
    assert address == f"{hub.address}/owner/layer/commit/{COMMIT}"
    assert hub.private["owner/layer"]
    assert "Bearer hf_secret" in hub.tokens
    assert sorted(hub.repositories["owner/layer"]) == NAMES
    hub.repositories["owner/layer"]["setup.py"] = b"raise SystemExit"
    folder = snapshot("owner/layer", token="hf_secret")
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert front_matter(folder)["license"] == "cc-by-4.0"
    assert (folder / "model.safetensors").read_bytes() == layer.read_bytes()


def test_a_repository_is_loaded_as_a_nowcaster(hub):
    push_to_hub("owner/rain")
    assert 'from_pretrained("owner/rain")' in hub.repositories["owner/rain"]["README.md"].decode()
    assert from_pretrained("owner/rain", threads=1).model.digest == load_model(shipped_model()).digest


def test_a_folder_is_uploaded_with_its_edited_card(hub, layer, tmp_path, refused):
    folder = save_folder(tmp_path / "layer", layer)
    (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
    (folder / "notes.txt").write_text("private", encoding="utf-8")
    push_to_hub("owner/layer", folder)
    assert hub.repositories["owner/layer"]["README.md"] == b"# Mine\n"
    assert sorted(hub.repositories["owner/layer"]) == NAMES
    with refused(ConfigError, "license"):
        push_to_hub("owner/layer", folder, license="cc-by-4.0")


def test_a_hub_that_refuses_or_does_not_answer_is_one_line(hub, layer, monkeypatch, refused):
    with refused(WeightsError, "owner/none"):
        snapshot("owner/none")
    monkeypatch.setattr(
        sys.modules["huggingface_hub.constants"], "ENDPOINT", "http://127.0.0.1:9"
    )  # a port without a server
    with refused(WeightsError, "owner/none"):
        snapshot("owner/none")
    with refused(OutputError, "owner/layer"):
        push_to_hub("owner/layer", layer)
