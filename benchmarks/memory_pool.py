"""Stress the pool of large arrays: several threads, with garbage collection at every allocation.

    python benchmarks/memory_pool.py --takes 1000000

Each area is part of a reference cycle, so that garbage collection returns it during some other operation. The script
prints the number of allocations and of exceptions, and the bytes that the pool still counts as used, which must be 0.
"""

from __future__ import annotations

import argparse
import gc
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from convlstm.engine.torch.buffers import _Pool


def take(pool: _Pool, takes: int) -> int:
    """Allocate areas of 24 sizes; return the number of exceptions."""
    failed = 0
    for n in range(takes):
        try:
            cycle: list[object] = [pool.take(4096 * (1 + n % 24))]
            cycle.append(cycle)
        except RuntimeError:
            failed += 1
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--takes", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()
    pool, started = _Pool(), perf_counter()
    gc.set_threshold(1)
    with ThreadPoolExecutor(arguments.threads) as threads:
        part = arguments.takes // arguments.threads
        jobs = [threads.submit(take, pool, part) for _ in range(arguments.threads)]
        failed = sum(job.result() for job in jobs)
    gc.collect()
    seconds = perf_counter() - started
    print(f"{part * arguments.threads} allocations in {arguments.threads} threads, {seconds:.0f} s")
    print(f"{failed} exceptions, {pool.used_bytes} bytes in use")


if __name__ == "__main__":
    main()
