"""Training in several processes of JAX, by the command: the losses of one process, and a clean end."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convlstm.data import open_frames
from convlstm.errors import ConfigError
from convlstm.frontend.processes import DeviceMesh, Processes
from convlstm.nowcast.config_text import to_yaml
from convlstm.nowcast.fit import fit
from convlstm.nowcast.frameworks import process_rank
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights.checkpoint import load_arrays

pytest.importorskip("jax")

SECTIONS = {
    "data": {"crop": 16},
    # the learning rate does not depend on the number of steps, so that a run can continue to more of them
    "training": {
        "steps": 12,
        "batch_size": 4,
        "validate_every": 1,
        "validation_windows": 5,
        "average": 0.9,
        "warmup_steps": 24,
    },
}
LONG = SECTIONS | {"training": SECTIONS["training"] | {"steps": 2000, "validate_every": 2}}
TWO = Processes(devices=2)
TOLERANCE = 1e-5  # the goal; the order of float32 sums changes losses of 0.03 by less than 1e-7


@pytest.fixture(scope="module")
def whole_run_of_jax(gappy_path, tiny, tmp_path_factory):
    """The folder of a run in this process."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    fit(tiny(**SECTIONS), open_frames(gappy_path), folder, framework="flax", device="cpu")
    return folder.path


@pytest.fixture
def started(tmp_path, gappy_path, tiny):
    """Start `convlstm train --framework flax` in a folder of that name; standard output and error are kept."""
    running = []

    def start(name, *options, variables=(), **sections):
        path = tmp_path / f"{name}-{len(running)}.yaml"
        path.write_text(to_yaml(tiny(**sections)))
        words = ["train", gappy_path, "-o", tmp_path / name, "-c", path, "--framework", "flax", "--device", "cpu"]
        command = [sys.executable, "-m", "convlstm", *map(str, words), *options]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(variables)
        kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **kept))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ended(process):
    """Return the exit code of a process, and what it printed on standard output and error."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def two_devices():
    return {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def wait_for_step(folder, step):
    """Wait until a validation at that step is in the log."""
    deadline = time.monotonic() + 180
    while not any(entry["step"] >= step for entry in RunFolder(folder).history()):
        assert time.monotonic() < deadline, "the training does not proceed"
        time.sleep(0.05)


def children(process):
    """Return the numbers of the processes that a command has started, in their order."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, text.split()))


def check_same_run(folder, expected):
    ours, theirs = RunFolder(folder), RunFolder(expected)
    for found, wanted in zip(ours.history(), theirs.history(), strict=True):
        for name in ("step", "loss", "validation_loss"):
            assert found[name] == pytest.approx(wanted[name], rel=0, abs=TOLERANCE), (name, wanted["step"])
    names = sorted(path.name for path in theirs.path.iterdir())
    assert sorted(path.name for path in ours.path.iterdir()) == names
    arrays, wanted = (load_arrays(each.path / "state.safetensors")[0] for each in (ours, theirs))
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        # Adam divides a gradient by its own size, so that rounding moves a weight by parts of the learning rate
        np.testing.assert_allclose(arrays[name], array, rtol=0, atol=1e-3, err_msg=name)


def test_two_processes_have_the_losses_of_one(started, tmp_path, whole_run_of_jax):
    code, out, err = ended(started("parts", "--json", "--devices", "2", **SECTIONS))
    assert (code, err) == (0, "")
    assert out.startswith("{")  # no message of a library, and one result
    assert out.count('"best_step"') == 1
    check_same_run(tmp_path / "parts", whole_run_of_jax)
    losses = [entry["validation_loss"] for entry in RunFolder(whole_run_of_jax).history()]
    assert losses[-1] < losses[0]  # steps that change nothing would pass too


@pytest.mark.parametrize("mesh", [pytest.param("data=2,space=2", marks=pytest.mark.slow), "data=1,space=4"])
def test_two_hosts_divide_windows_and_rows_on_a_mesh(started, tmp_path, whole_run_of_jax, mesh):
    """One command per host, each with two devices; the second mesh divides the rows among the hosts."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    options = ("--nodes", "2", "--mesh", mesh)
    hosts = [
        started("parts", *options, variables=two_devices() | address | {"NODE_RANK": str(number)}, **SECTIONS)
        for number in range(2)
    ]
    results = [ended(process) for process in hosts]
    assert [result[0] for result in results] == [0, 0], results
    assert results[1][1] == ""  # the first host prints
    check_same_run(tmp_path / "parts", whole_run_of_jax)


def test_a_run_of_two_processes_of_slurm_continues_in_one(started, tmp_path, whole_run_of_jax):
    for steps, count in ((6, 2), (12, 1)):
        tasks = []
        for number in map(str, range(count)):
            place = {"JOB_ID": f"{os.getpid() + steps}", "STEP_NODELIST": "localhost", "NTASKS": f"{count}"}
            place |= {"PROCID": number, "LOCALID": number}
            variables = {f"SLURM_{name}": value for name, value in place.items()}
            sections = SECTIONS | {"training": SECTIONS["training"] | {"steps": steps}}
            tasks.append(started("run", "--resume", "--devices", f"{count}", variables=variables, **sections))
        assert [ended(process)[0] for process in tasks] == [0] * count
    check_same_run(tmp_path / "run", whole_run_of_jax)


def test_a_signal_in_any_process_stops_all_after_the_same_step(started, tmp_path):
    process = started("run", "--devices", "2", **LONG)
    wait_for_step(tmp_path / "run", 2)
    os.kill(children(process)[1], signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 128 + signal.SIGTERM
    assert err.count("got SIGTERM") == 1
    progress = load_arrays(tmp_path / "run" / "state.safetensors")[1]["progress"]
    assert 2 <= progress["step"] < 2000


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_others(started, tmp_path, lost):
    process = started("run", "--devices", "2", **LONG)
    wait_for_step(tmp_path / "run", 4)
    os.kill(children(process)[lost], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = ended(process)
    assert code == 9
    assert time.monotonic() - killed < 15
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "processes: expected all 2 processes of the training, got a lost connection" in errors[0]
    step = load_arrays(tmp_path / "run" / "state.safetensors")[1]["progress"]["step"]
    assert step in range(2, 2000, 2)  # saved at a validation, from which `--resume` continues


def test_processes_with_different_options_are_refused(started):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    hosts = [
        started("run", "--nodes", "2", variables=address | {"NODE_RANK": str(number)}, seed=number, **SECTIONS)
        for number in range(2)
    ]
    results = [ended(process) for process in hosts]
    assert [result[0] for result in results] == [4, 4]
    for _, _, err in results:
        assert "processes: expected the same configuration, data and saved state in all of them" in err


def test_a_port_in_use_is_named(started):
    with socket.socket(socket.AF_INET6) as used:
        used.bind(("::", 0))
        used.listen()
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(used.getsockname()[1]), "NODE_RANK": "0"}
        code, _, err = ended(started("run", "--nodes", "2", variables=address, **SECTIONS))
    assert code == 3
    assert "MASTER_PORT: expected a free port" in err


@pytest.mark.parametrize("mesh", ["data=3", "data=3,space=2", "data=2,space=3"])
def test_a_mesh_that_processes_cannot_share_is_refused(refused, mesh):
    with refused(ConfigError, "mesh"):
        DeviceMesh.of_text(mesh).devices_per_process(Processes(devices=4))


@pytest.mark.parametrize(("data", "space", "count"), [(4, 2, 2), (2, 4, 4), (1, 4, 2), (8, 1, 4), (2, 2, 1)])
def test_the_parts_of_the_processes_are_the_batch(data, space, count):
    mesh, processes = DeviceMesh(data=data, space=space), Processes(devices=count)
    devices = mesh.devices_per_process(processes)
    parts = [mesh.data_parts(processes, rank) for rank in range(count)]
    assert [set(range(first, first + number)) for first, number in parts] == [
        {n // space for n in range(rank * devices, (rank + 1) * devices)} for rank in range(count)
    ]
    assert set(itertools.chain.from_iterable(range(first, first + number) for first, number in parts)) == set(
        range(data)
    )


def test_processes_of_torchrun_are_refused(monkeypatch, refused):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with refused(ConfigError, "nodes"):
        process_rank("flax", TWO, None)


def test_another_number_than_srun_started_is_refused(monkeypatch, refused):
    for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "3")
    with refused(ConfigError, "devices"):
        process_rank("flax", TWO, None)
    assert process_rank("flax", Processes(devices=3), None) == 3


def test_the_place_of_a_process_follows_from_the_environment(monkeypatch):
    many = Processes(devices=2, nodes=2)
    assert process_rank("flax", many, None) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("NODE_RANK", "1")
    assert process_rank("flax", many, None) == 3
    assert process_rank("flax", Processes(), None) == 0


def test_fsdp_is_refused(refused):
    with refused(ConfigError, "strategy"):
        process_rank("flax", Processes(devices=2, strategy="fsdp"), None)


@pytest.mark.parametrize(
    ("variables", "argument"),
    [({"LOCAL_RANK": "0"}, "NODE_RANK"), ({"LOCAL_RANK": "0", "NODE_RANK": "first"}, "NODE_RANK")],
)
def test_variables_of_a_launcher_in_part_are_refused(refused, monkeypatch, variables, argument):
    for name in ("NODE_RANK", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with refused(ConfigError, argument):
        process_rank("flax", Processes(devices=2), None)


def test_gpus_that_a_process_cannot_see_are_refused(refused):
    local_devices = pytest.importorskip("convlstm.jax.processes").local_devices
    assert local_devices({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1"}, 1) == [1]
    for visible, devices in (("3", 1), ("0,1", 2)):
        with refused(ConfigError, "devices"):
            local_devices({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": visible}, devices)


def test_processes_without_a_launcher_are_refused(refused, monkeypatch):
    connect = pytest.importorskip("convlstm.jax.processes").connect
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with refused(ConfigError, "processes"):
        connect(Processes(devices=2), 1)
