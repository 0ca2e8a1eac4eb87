"""The groups of implementations that are compared in one process, ours first."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field
from importlib.util import find_spec

EVERY = ("wide", "paper", "openstl", "first", "long", "small", "1-D", "3-D")
"""Every case of `cases.py`, in the order of the tables."""

_LARGE = ("wide", "paper", "openstl", "first")
_TENSORFLOW = {"KERAS_BACKEND": "tensorflow"}


@dataclass(frozen=True)
class Group:
    """Implementations that alternate; the first is ours.

    Args:
        name: Name of the group, such as `torch bf16`.
        module: Module that builds them.
        contenders: Names of the implementations.
        cases: Names of cases in `cases.py`.
        packages: Packages that must be installed.
        environment: Environment variables of the process.
        memory: Implementations whose memory is measured, in the training step.
        apart: Module and environment of the implementations that need another process.
        works: The kinds of work that are timed: forward, train or both.
    """

    name: str
    module: str
    contenders: tuple[str, ...]
    cases: tuple[str, ...]
    packages: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    apart: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    works: tuple[str, ...] = ("forward", "train")

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        names = {"haiku": "dm-haiku"}
        absent = [names.get(name, name) for name in self.packages if find_spec(name) is None]
        if "LD_PRELOAD" in self.environment and not find_library("openblas"):
            absent.append("OpenBLAS")
        return tuple(absent)


GROUPS = {
    group.name: group
    for group in (
        Group(
            "torch",
            "in_torch",
            ("ours", "ours-python", "common", "common-last", "floor"),
            EVERY,
            ("torch",),
            memory=("ours", "ours-python", "common", "common-last"),
        ),
        Group(
            "torch compiled",
            "in_torch",
            ("ours-compiled", "ours", "common-compiled", "hoisted", "hoisted-compiled"),
            ("wide", "paper", "first", "small"),
            ("torch",),
        ),
        Group(
            "torch and TensorFlow",
            "in_torch",
            ("ours", "keras"),
            ("wide", "paper", "openstl", "first", "long", "small"),
            ("torch", "keras", "tensorflow"),
            apart={"keras": ("in_keras", _TENSORFLOW)},
            works=("train",),
        ),
        Group(
            "torch bf16",
            "in_torch",
            ("ours bf16", "ours-python bf16", "common bf16", "common-last bf16", "floor bf16"),
            _LARGE,
            ("torch",),
        ),
        Group(
            "keras-tensorflow",
            "in_keras",
            ("ours", "keras"),
            (*_LARGE, "small"),
            ("keras", "tensorflow"),
            _TENSORFLOW,
        ),
        Group(
            "keras-tensorflow xla",
            "in_keras",
            ("ours xla", "keras xla"),
            ("small",),
            ("keras", "tensorflow"),
            _TENSORFLOW,
        ),
        Group(
            "keras-torch",
            "in_keras",
            ("ours", "keras"),
            ("wide", "first", "small"),
            ("keras", "torch"),
            {"KERAS_BACKEND": "torch"},
        ),
        Group("keras-jax", "in_keras", ("ours", "keras"), ("small",), ("keras", "jax"), {"KERAS_BACKEND": "jax"}),
        Group("flax", "in_flax", ("ours", "linen", "haiku"), ("small",), ("flax", "haiku")),
        Group(
            "flax large",
            "in_flax",
            ("ours", "linen"),
            ("wide", "paper", "first"),
            ("flax",),
            apart={"linen": ("in_flax", {})},
        ),
        Group(
            "mlx",
            "in_mlx",
            ("ours", "plain"),
            ("small", "first"),
            ("mlx",),
            {"LD_PRELOAD": find_library("openblas") or ""},
        ),
    )
}
"""Every group by name, in the order of the tables."""
