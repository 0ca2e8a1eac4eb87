"""Compile the kernels of Triton for NVIDIA's GPUs, and print the kinds of their loads: one line of JSON per kernel."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from convlstm.engine.torch import triton_gates

NUMBERS = {"points": 1, "HIDDEN": 64, "IS_LARGE": False, "BLOCK": triton_gates._BLOCK}
FLAGS = ("HAS_INPUT", "HAS_RECURRENT", "HAS_BIAS", "HAS_PEEPHOLE", "HAS_OUTPUT", "KEEPS")
WIDE = ("c_before", "c_after", "dc")
"""Arrays that are float32 in every type."""


def assembly(kernel: Any, dtype: str, capability: int) -> str:
    """Return the assembly for aligned arrays of this type and a number of values that 16 divides."""
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in NUMBERS or name in FLAGS:
            signature[name] = "constexpr"
            constants[name] = NUMBERS.get(name, True)
        else:
            signature[name] = "i32" if name == "size" else "*fp32" if name in WIDE else dtype
            attributes[position,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    text: str = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
    return text


def main() -> None:
    """Compile both kernels for two types and two generations of GPUs."""
    for kernel in (triton_gates._forward, triton_gates._backward):
        for dtype in ("*fp32", "*bf16"):
            for capability in (80, 90):
                text = assembly(kernel, dtype, capability)
                loads = re.findall(r"ld\.global\S*", text)
                wide = sum(".v4" in load for load in loads)
                numbers = {"wide_loads": wide, "narrow_loads": len(loads) - wide}
                divisions = len(re.findall(r"\b(?:div|rem)\.[su]\d", text))
                line = {"kernel": kernel.__name__, "type": dtype, **numbers, "divisions": divisions}
                sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
