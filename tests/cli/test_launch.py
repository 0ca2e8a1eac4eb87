"""The processes of a training: how they are started, and with which line and exit code they end."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from convlstm.cli import launch as launching
from convlstm.cli.launch import launch
from convlstm.cli.main import run
from convlstm.errors import ConfigError, LostProcessError
from convlstm.frontend.processes import Processes
from convlstm.nowcast.run_folder import RunFolder
from convlstm.nowcast.signals import STOPPING

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


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_reaches_every_process_once_and_leaves_time_to_save(capfd, monkeypatch, number):
    monkeypatch.setattr(launching, "GRACE", 0.2)
    code = f"""
def stop(*_):
    time.sleep(rank)  # longer than the processes have after an error
    sys.exit(print("stopped", file=sys.stderr) or {128 + number})

signal.signal({int(number)}, stop)
print("ready", file=sys.stderr)
if rank == 0:
    time.sleep(0.5)
    os.kill(os.getppid(), {int(number)})
time.sleep(60)
"""
    before = signal.getsignal(number)
    assert launch(python(code), TWO) == 128 + number
    assert capfd.readouterr().err.count("stopped") == 2
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_before_the_training_ends_the_processes(number):
    default = f"signal.signal({int(number)}, signal.SIG_DFL)\ntime.sleep(0.3)\n"
    code = f"{default}os.kill(os.getppid(), {int(number)}) if rank == 0 else None\ntime.sleep(60)"
    assert launch(python(code), TWO) == 128 + number


def test_a_closed_terminal_stops_no_reader_of_errors(monkeypatch):
    class Closed:
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

        def writelines(self, lines):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    code = "print('a note\\n' * 20_000, file=sys.stderr)\nprint('error: of', rank, file=sys.stderr)\nsys.exit(4)"
    assert launch(python(code), TWO) == 4  # a full pipe would stop the process for ever


def test_no_process_is_left_if_a_later_one_cannot_start(monkeypatch):
    real, started = subprocess.Popen, []

    def fail_second(*words, **options):
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(real(*words, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", fail_second)
    with pytest.raises(BlockingIOError):
        launch(python("time.sleep(60)"), TWO)
    assert started[0].returncode == -signal.SIGKILL


def test_no_module_of_the_working_folder_is_imported(tmp_path, monkeypatch, capfd):
    (tmp_path / "local_module.py").touch()
    monkeypatch.chdir(tmp_path)
    assert launch(python("import importlib.util\nprint(importlib.util.find_spec('local_module'))"), TWO) == 0
    assert capfd.readouterr().out == "None\n"


def test_processes_have_the_arguments_of_a_call_from_python(monkeypatch):
    given = []
    monkeypatch.setattr(launching, "launch", lambda command, processes: given.append(command) or 0)
    monkeypatch.setattr(sys, "argv", ["other", "words"])
    words = ["train", "rain.nc", "-o", "run", "--devices", "2", "--device", "cpu"]
    assert run(words) == 0
    assert given == [[sys.executable, "-m", "convlstm", *words]]


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
    folder = RunFolder(folder / "run")
    assert [entry["step"] for entry in folder.history()] == [2, 4]
    assert folder.model.exists()


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
