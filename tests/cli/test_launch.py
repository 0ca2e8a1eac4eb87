"""The processes of a training: how they are started, and with which line and exit code they end."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from convlstm.cli import launch as launching
from convlstm.cli.launch import launch
from convlstm.errors import ConfigError, LostProcessError
from convlstm.frontend.processes import Processes
from convlstm.nowcast.run_folder import RunFolder

TWO = Processes(devices=2)


def python(code):
    return [sys.executable, "-c", f"import os, signal, sys, time\nrank = int(os.environ['LOCAL_RANK'])\n{code}"]


def test_each_process_knows_its_place(capfd):
    names = ["LOCAL_RANK", "NODE_RANK", "MASTER_ADDR"]
    assert launch(python(f"print(*[os.environ[n] for n in {names}], file=sys.stderr)\nprint(rank)"), TWO) == 0
    out, err = capfd.readouterr()
    assert sorted(err.splitlines()) == ["0 0 127.0.0.1", "1 0 127.0.0.1"]
    assert out == "0\n"  # of the first process alone


def test_of_all_errors_the_first_is_printed(capfd):
    code = """
time.sleep(0.5 * (1 - rank))
print("a note", file=sys.stderr)
print("error: of", rank, file=sys.stderr)
sys.exit(4)
"""
    assert launch(python(code), TWO) == 4
    assert capfd.readouterr().err == "a note\na note\nerror: of 1\n"


def test_an_error_has_precedence_over_a_lost_connection(capfd):
    lost = "print('error: processes: lost', file=sys.stderr)\n"
    cause = "print('error: cause', file=sys.stderr) if rank else None\nsys.exit(4 if rank else 9)"
    assert launch(python(lost + cause), TWO) == 4
    assert capfd.readouterr().err == "error: cause\n"
    assert launch(python(lost + "sys.exit(9 * rank)"), TWO) == 9
    assert capfd.readouterr().err == "error: processes: lost\n"


def test_processes_that_do_not_end_by_themselves_are_killed(monkeypatch, capfd):
    monkeypatch.setattr(launching, "GRACE", 0.3)
    started = time.monotonic()
    with pytest.raises(LostProcessError, match="a process was killed"):
        launch(python("time.sleep(60) if rank == 0 else os.kill(os.getpid(), signal.SIGKILL)"), TWO)
    assert time.monotonic() - started < 10


def test_a_signal_reaches_every_process_once(capfd):
    code = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped", file=sys.stderr) or 143))
print("ready", file=sys.stderr)
if rank == 0:
    time.sleep(0.5)
    os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""
    before = signal.getsignal(signal.SIGTERM)
    assert launch(python(code), TWO) == 143
    assert capfd.readouterr().err.count("stopped") == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_before_the_training_ends_the_processes():
    code = "os.kill(os.getppid(), signal.SIGTERM) if rank == 0 else None\ntime.sleep(60)"
    assert launch(python(code), TWO) == 143


def test_several_nodes_need_an_address(monkeypatch, refused, capfd):
    many = Processes(devices=1, nodes=2)
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with refused(ConfigError, "nodes"):
        launch(python(""), many)
    for name, value in {"MASTER_ADDR": "node-0", "MASTER_PORT": "1234", "NODE_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launch(python("print(os.environ['NODE_RANK'], os.environ['MASTER_ADDR'])"), many) == 0
    assert capfd.readouterr().out == "1 node-0\n"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def command(*words):
    return [sys.executable, "-m", *map(str, words)]


def finished(words, folder, **variables):
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def check_run(folder):
    run = RunFolder(folder / "run")
    assert [entry["step"] for entry in run.history()] == [2, 4]
    assert run.model.exists()


@pytest.fixture
def train_words(tmp_path, trained, tiny):
    """Words of a training in two processes on a CPU."""
    return ["convlstm", "train", trained / "rain.nc", "-o", "run", *tiny, "--devices", "2", "--device", "cpu"]


def test_the_command_trains_in_two_processes_and_prints_one_result(tmp_path, train_words):
    with finished(command(*train_words, "--strategy", "fsdp", "--log-file", "log.txt"), tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.count("run/model.safetensors: best of 4 steps") == 1
    assert (tmp_path / "log.txt").read_text().count("best of 4 steps") == 1
    check_run(tmp_path)


def test_an_error_in_all_processes_is_one_line(tmp_path, train_words):
    (tmp_path / "rain.nc").write_text("no data")
    words = ["rain.nc" if str(word).endswith("rain.nc") else word for word in train_words]
    with finished(command(*words), tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (4, "")
    assert err.startswith("error: rain.nc: ")
    assert err.count("\n") == 1


def test_torchrun_starts_the_processes(tmp_path, train_words):
    words = ["torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port(), "-m", *train_words]
    with finished(command(*words), tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("best of 4 steps") == 1
    check_run(tmp_path)


def test_slurm_starts_the_processes(tmp_path, train_words):
    common = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0", "JOB_NAME": "train", "JOB_ID": "7"}
    variables = {f"SLURM_{name}": value for name, value in common.items()}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    processes = [finished(command(*train_words), tmp_path, **variables, **place) for place in places]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert [out.count("best of 4 steps") for out, _ in results] == [1, 0]
    check_run(tmp_path)
