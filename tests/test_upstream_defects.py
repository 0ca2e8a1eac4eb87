"""The defects of other libraries in docs/known_gaps.md: each example is wrong, or its line and what avoids it can go.

Each runs in a process of its own, since a read outside an array may end it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "known_gaps.md").read_text(encoding="utf-8")
LINES = dict(re.findall(r"^- `([\w-]+)` \((.+?)\): ", PAGE.partition("## Defects of other libraries")[2], re.MULTILINE))

TORCH = """
import torch, torch.nn.functional as F
torch.manual_seed(0)
x, w = torch.randn(*SIZES[0]).bfloat16(), torch.randn(*SIZES[1]).bfloat16() / 12
def wrong(f):
    y, expected = f(x, w).double(), f(x.double(), w.double())
    return not (y - expected).abs().max() < 0.05 * max(1.0, expected.abs().max())
"""
TENSORFLOW = """
import numpy as np, tensorflow as tf
random = np.random.default_rng(0)
x, w = (random.standard_normal(size) for size in SIZES)
def wrong(f, dtype=tf.bfloat16, exact=tf.float32, limit=0.05):
    arrays = [tf.cast(a, dtype) for a in (x, w / 12)]
    y, expected = (tf.cast(y, tf.float64) for y in (f(*arrays), f(*(tf.cast(a, exact) for a in arrays))))
    return not np.abs(y - expected).max() < limit * max(1.0, np.abs(expected).max())
"""
EXAMPLES = {
    "torch-bfloat16-one-output-column": (
        TORCH,
        "[(2, 16, 9, 2), (16, 16, 3, 3)]",
        "lambda x, w: F.conv2d(x, w, stride=(1, 2), padding=1)",
    ),
    "torch-bfloat16-depth-1": (
        TORCH,
        "[(2, 3, 1, 6, 7), (8, 3, 3, 3, 3)]",
        "lambda x, w: F.conv3d(x, w, padding=1)",
    ),
    "tensorflow-bfloat16-one-output-column": (
        TENSORFLOW,
        "[(2, 9, 2, 16), (3, 3, 16, 16)]",
        "lambda x, w: tf.nn.conv2d(x, w, (1, 2), 'SAME')",
    ),
    "tensorflow-bfloat16-depth-1": (
        TENSORFLOW,
        "[(2, 1, 6, 7, 3), (3, 3, 3, 3, 8)]",
        "lambda x, w: tf.nn.conv3d(x, w, [1] * 5, 'SAME')",
    ),
    "tensorflow-bfloat16-einsum": (
        TENSORFLOW,
        "[(2, 4, 3), (3, 8)]",
        "lambda x, w: tf.einsum('...i,io->...o', x, w)",
    ),
    "tensorflow-float64-conv3d-stride": (
        TENSORFLOW,
        "[(2, 3, 4, 4, 4), (1, 1, 1, 4, 8)]",
        "lambda x, w: tf.nn.conv3d(x, w, [1, 3, 1, 1, 1], 'SAME'), tf.float64",
    ),
    "tensorflow-float16-conv3d-sums": (
        TENSORFLOW,
        "[(4, 8, 16, 16, 32), (3, 3, 3, 32, 32)]",
        "lambda x, w: tf.nn.conv3d(x, w, [1] * 5, 'SAME'), tf.float16, limit=0.002",
    ),
}
NOT_RUN = {"one-channel-mixed-strides"}
"""Wrong in some shapes only, by what lies behind the array."""


def has_amx() -> bool:
    """Return whether the processor has AMX and the system lets processes use it."""
    torch = pytest.importorskip("torch")
    return bool(torch.cpu._is_amx_tile_supported())


def has_float16() -> bool:
    """Return whether the processor computes in float16 (AVX-512 FP16), so that oneDNN does."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_fp16" in flags.read_text(encoding="utf-8")


def examples() -> list[object]:
    marked = []
    for name in EXAMPLES:
        reason = ""
        if LINES.get(name) == "AMX" and not has_amx():
            reason = "this processor has no AMX"
        if LINES.get(name) == "without AVX-512 FP16" and has_float16():
            reason = "oneDNN computes this on a processor with AVX-512 FP16"
        mark = pytest.mark.skip(reason=reason) if reason else pytest.mark.xfail(strict=True)
        marked.append(pytest.param(name, marks=mark))
    return marked


@pytest.mark.parametrize("name", examples())
def test_example(name: str) -> None:
    setup, sizes, call = EXAMPLES[name]
    code = f"SIZES = {sizes}\n{setup}\nprint('wrong' if wrong({call}) else 'right')"
    # TensorFlow chooses oneDNN by the processor
    onednn = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment = {**os.environ, **onednn, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, text=True)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("the library is not installed")
    assert done.stdout.strip() == "right", done.stderr[-500:]  # a crash counts as wrong too


def test_every_line_has_its_example() -> None:
    assert EXAMPLES.keys() | NOT_RUN == LINES.keys()
