"""Bytes that each device sends in a program of XLA, from the text of the compiled program.

An operation inside a loop counts once per turn of the loop, whose number XLA writes next to it.
"""

from __future__ import annotations

import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(
    r"= (?P<shape>.*?) (?P<kind>all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
_CALLED = re.compile(r"(?:body|calls|condition|to_apply)=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUP = re.compile(
    r"replica_groups=(?:\{\{(?P<members>[\d,]+)\}|\[\d+,(?P<size>\d+)\]|mesh\[(?P<mesh>.*?)\] \{(?P<axes>.*?)\})"
)


def bytes_per_device(program: str, devices: int) -> float:
    r"""Return the bytes that each of a number of devices sends in a run of a compiled program.

    A sum over n devices sends 2 (n − 1) / n of its bytes, as a ring does; a gathering (n − 1) / n of its result.

    Example:
        >>> line = "  %sum = f32[100]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add"
        >>> bytes_per_device(f"ENTRY %main (x: f32[100]) -> f32[100] {{\n{line}\n}}", 2)
        400.0
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            lines = computations.setdefault(header[1], [])
            if line.startswith("ENTRY"):
                entry = header[1]
        elif line.startswith(" "):
            lines.append(line)

    def sent_by(name: str) -> float:
        return sum(_sent(line, devices) + called_by(line) for line in computations.get(name, ()))

    def called_by(line: str) -> float:
        turns = int(match[1]) if (match := _TURNS.search(line)) else 1
        return turns * sum(sent_by(name) for name in _CALLED.findall(line))

    return sent_by(entry)


def _sent(line: str, devices: int) -> float:
    """Return the bytes that a device sends for the operation in a line of a program."""
    match = _OPERATION.search(line)
    if match is None:
        return 0.0
    size = sum(
        _BYTES[kind] * math.prod(int(axis) for axis in axes.split(",") if axis)
        for kind, axes in re.findall(r"(\w+)\[([\d,]*)\]", match["shape"])
        if kind in _BYTES
    )
    members = _members(line, devices)
    share = (members - 1) / members
    factors = {"all-reduce": 2 * share, "all-gather": share, "all-to-all": share, "reduce-scatter": members * share}
    return float(size * factors.get(match["kind"], 1.0))


def _members(line: str, devices: int) -> int:
    """Return the number of devices that an operation is over; all of them if the line does not say."""
    group = _GROUP.search(line)
    if group is None:
        return devices
    if group["members"]:
        return len(group["members"].split(","))
    if group["size"]:
        return int(group["size"])
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", group["mesh"]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", group["axes"]))
