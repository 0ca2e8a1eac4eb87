"""A run that is stopped, killed or fails: it goes on to the same bytes, alone in its folder, and loses nothing."""

import math
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from convlstm import files
from convlstm.errors import ConfigError, DataError, OutputError, TrainingError, WeightsError
from convlstm.files import DRAFT
from convlstm.nowcast.config_text import read_config, to_yaml
from convlstm.nowcast.run_folder import RunFolder
from convlstm.torch.training import Trainer
from convlstm.weights.checkpoint import load_arrays


@pytest.mark.parametrize("step", range(1, 6))
def test_a_run_that_fails_at_any_step_goes_on_to_the_same_bytes(train, whole_run, step, contents, stopped):
    stopped(step)
    assert contents(train(resume=True)) == whole_run


def test_a_finished_run_goes_on_to_more_steps(train, whole_run, contents):
    train()
    folder = train(resume=True, training={"steps": 10})
    assert [entry["step"] for entry in folder.history()] == [2, 4, 6, 8, 10]
    assert read_config(folder.config).training.steps == 10
    longer = contents(folder)
    assert contents(train(resume=True, training={"steps": 10})) == longer
    assert longer["state.safetensors"] != whole_run["state.safetensors"]


def test_a_refused_resume_leaves_the_number_of_steps(train, read, make_rain, refused):
    folder = train()
    with refused(DataError, "data"):
        train(frames=read(make_rain(days=5)), resume=True, training={"steps": 10})
    assert read_config(folder.config).training.steps == 6


def test_more_steps_do_not_help_a_run_that_ended_without_improvement(train):
    options = {"learning_rate": 1e-30, "weight_decay": 0, "patience": 1}
    train(training=options)
    assert train(resume=True, training=options | {"steps": 10}).history()[-1]["step"] == 4


def test_a_run_may_fail_often(train, whole_run, contents, stopped):
    for step in (1, 3, 3, 5):
        stopped(step, resume=True)
    assert contents(train(resume=True)) == whole_run
    assert contents(train(resume=True)) == whole_run


DRIVER = """
import sys
from convlstm.data import open_frames
from convlstm.nowcast.config_text import read_config
from convlstm.nowcast.frameworks import set_threads
from convlstm.nowcast.fit import fit
from convlstm.nowcast.run_folder import RunFolder

data, config, folder, step = sys.argv[1:]

def on_step(report):
    if report.step == int(step):
        print("here", flush=True)
        sys.stdin.readline()

set_threads("torch", 1)
try:
    fit(read_config(config), open_frames(data), RunFolder(folder), on_step=on_step)
except Exception as error:
    print(error, flush=True)
    sys.exit(getattr(error, "exit_code", 1))
"""


@pytest.mark.parametrize(
    ("number", "code", "saved"), [(signal.SIGTERM, 143, 3), (signal.SIGHUP, 129, 3), (signal.SIGKILL, -9, 2)]
)
def test_a_killed_process_goes_on_to_the_same_bytes(
    make_rain, tmp_path, tiny, train, whole_run, refused, number, code, saved, contents
):
    make_rain().to_netcdf(tmp_path / "rain.nc")
    (tmp_path / "config.yaml").write_text(to_yaml(tiny()))
    words = [sys.executable, "-c", DRIVER, *(str(tmp_path / name) for name in ("rain.nc", "config.yaml", "run")), "3"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        before = contents(RunFolder(tmp_path / "run"))
        for resume in (True, False):
            with refused(OutputError, str(tmp_path / "run")):
                train(resume=resume)
        with pytest.raises(OutputError, match=f"a training in process {process.pid}\\."):
            train(resume=True)
        assert contents(RunFolder(tmp_path / "run")) == before
        process.send_signal(number)
        said = process.communicate("\n", timeout=60)[0]
    assert process.returncode == code
    assert said == ("" if number == signal.SIGKILL else "training: expected no interruption, got " + number.name + ". "
        "Continue with `convlstm train --resume`, or run `convlstm demo` again. The state is saved.\n")  # fmt: skip
    state = load_arrays(tmp_path / "run" / "state.safetensors")[1]
    assert state["progress"]["step"] == saved
    assert contents(train(resume=True)) == whole_run


def test_a_second_signal_stops_at_once(train):
    def ask_twice(report):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(on_step=ask_twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_ignored_stays_ignored(train, whole_run, contents):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        assert contents(train(on_step=lambda report: os.kill(os.getpid(), signal.SIGHUP))) == whole_run
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_outside_the_main_thread_needs_no_signals(train, whole_run, contents):
    result = []
    thread = threading.Thread(target=lambda: result.append(contents(train())))
    thread.start()
    thread.join()
    assert result == [whole_run]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_the_log_follows_the_state(train, whole_run, monkeypatch, failing, contents):
    """A process killed between a line of the log and its state writes that line again, not twice."""
    real, calls = RunFolder.save_state, iter(range(1, 100))

    def save(self, *arguments):
        if next(calls) == failing:
            raise RuntimeError("the machine went down")
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", save)
        with pytest.raises(RuntimeError, match="went down"):
            train()
    folder = train("run", resume=True)
    assert contents(folder) == whole_run


def test_a_line_cut_short_is_no_line(tmp_path, refused):
    folder = RunFolder(tmp_path)
    assert folder.history() == []
    folder.log({"step": 2, "loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert folder.history() == [{"step": 2, "loss": 1.0}]
    (tmp_path / "log.jsonl").write_text("something else\n")
    with refused(DataError, str(tmp_path / "log.jsonl")):
        folder.history()


@pytest.mark.parametrize(
    ("sections", "argument"),
    [
        ({"training": {"steps": 5}}, "training.steps"),
        ({"data": {"crop": 12}}, "data.crop"),
        ({"model": {"hidden_channels": [4, 8]}}, "model.hidden_channels"),
        ({"seed": 3}, "seed"),
    ],
)
def test_a_run_does_not_go_on_with_other_options(train, refused, sections, argument, contents):
    folder = train()
    before = contents(folder)
    with refused(ConfigError, argument):
        train(resume=True, **sections)
    assert contents(folder) == before


def test_a_run_does_not_go_on_with_other_data(train, make_rain, read, refused, contents):
    folder = train()
    before = contents(folder)
    for other in (make_rain(days=5), make_rain(height=24)):
        with refused(DataError, "data"):
            train(frames=read(other), resume=True)
    assert contents(folder) == before


@pytest.mark.parametrize("left", ["config.yaml", "model.safetensors", "state.safetensors"])
def test_a_folder_that_holds_a_part_of_a_run_is_left_alone(tmp_path, train, refused, left):
    path = tmp_path / "run" / left
    path.parent.mkdir()
    path.write_text("precious")
    with refused(ConfigError, str(tmp_path / "run")):
        train()
    assert [file.name for file in path.parent.iterdir()] == [left]
    assert path.read_text() == "precious"
    with pytest.raises((ConfigError, WeightsError)):
        train(resume=True)
    assert path.read_text() == "precious"


def test_a_damaged_state_is_refused(train, refused, stopped):
    stopped(3)
    folder = train("other")
    state = folder.path.parent / "run" / "state.safetensors"
    kept = state.read_bytes()
    for wrong in (kept[:-1], kept[:-3] + bytes([kept[-3] ^ 1]) + kept[-2:], folder.model.read_bytes()):
        state.write_bytes(wrong)
        with pytest.raises((WeightsError, DataError)):
            train(resume=True)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, train, refused):
    (tmp_path / "run").write_text("precious")
    with refused(OutputError, str(tmp_path / "run" / "model.safetensors")):
        train()
    assert (tmp_path / "run").read_text() == "precious"


def test_drafts_of_a_killed_process_are_swept(train, tmp_path, whole_run, contents, stopped):
    stopped(3)
    draft = tmp_path / "run" / f".state.safetensors.x1y2z3{DRAFT}" / "state.safetensors"
    draft.parent.mkdir()
    draft.write_text("half")
    (tmp_path / "run" / "notes.txt").write_text("my own")
    assert contents(train(resume=True)) == whole_run | {"notes.txt": b"my own"}


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_model(train, monkeypatch, whole_run, contents):
    real, calls = Trainer.step, iter(range(1, 100))

    def step(self, *arguments):
        return math.nan if next(calls) == 4 else real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(TrainingError, match=r"got nan at step 4\. Decrease") as caught:
            train()
    assert caught.value.exit_code == 7
    # what stands there is the run as it was at its last validation
    assert contents(train(resume=True)) == whole_run


def test_a_run_that_failed_before_it_learned_anything_hinders_no_other(train, whole_run, contents, stopped):
    for step in (1, 2):
        stopped(step, f"run {step}", seed=9)
    assert contents(train("run 1")) == whole_run
    with pytest.raises(ConfigError, match="a folder with a run"):
        train("run 2")


def test_a_copy_of_the_folder_goes_on_as_well(train, tmp_path, whole_run, contents, stopped):
    stopped(3)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert contents(train("copy", resume=True)) == whole_run


def test_the_state_file_has_the_names_that_earlier_versions_wrote(train):
    progress = load_arrays(train().path / "state.safetensors")[1]["progress"]
    assert progress.keys() == {"step", "best_loss", "best_step", "worse", "losses", "finished"}


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_a_file_of_a_run_that_is_stored_wrongly_ends_the_training_and_the_older_one_stays(
    train, stopped, tmp_path, monkeypatch, refused, whole_run, contents, name
):
    """The disk changes one bit of the file that is saved after step 4."""
    stopped(3)
    before, real = contents(RunFolder(tmp_path / "run")), files._digest_on_disk

    def digest(path):
        if path.name == name:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_digest_on_disk", digest)
        with refused(OutputError, str(tmp_path / "run" / name)):
            train(resume=True)
    after = contents(RunFolder(tmp_path / "run"))
    assert after[name] == before[name]
    assert after.keys() == before.keys()
    assert contents(train(resume=True)) == whole_run
