"""Proofs of reliability: kills, failing file-system calls, damaged files, random inputs, threads and concurrency.

`make torture` runs all of them, and `python -m benchmarks.torture NAME` some. docs/reliability.md has the results.
"""
