"""The end of a process group, which must not wait for its own threads."""

from __future__ import annotations

import socket
import subprocess
import sys

SCRIPT = """
import faulthandler, sys
import torch, torch.distributed as dist
from convlstm.torch.processes import disconnect

rank, port = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
store = dist.TCPStore("127.0.0.1", port, 2, rank == 0)
faulthandler.dump_traceback_later(100, exit=True)
for number in range(40):
    dist.init_process_group("gloo", store=dist.PrefixStore(str(number), store), rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
    model(torch.ones(4, 8)).sum().backward()
    total = torch.ones(2)
    dist.all_reduce(total)
    del total
    disconnect()
    del model
print("ended")
"""


def test_the_end_of_a_group_waits_for_no_thread_that_waits_for_python() -> None:
    """Without the pause in `disconnect`, the processes wait for ever before the 100th group at the latest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen([*command, str(rank), port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    results = [process.communicate(timeout=150) for process in processes]
    assert [out for out, _ in results] == ["ended\n", "ended\n"], results
