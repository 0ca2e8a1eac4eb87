"""A module compiled for this machine's processor by AOTInductor (`*.pt2`), with open batch, time and space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from convlstm.errors import DependencyError
from convlstm.frontend.exported_inputs import ExportedModel
from convlstm.spec.types import Array
from convlstm.torch import exporting


def write(path: Path, model: ExportedModel) -> None:
    """Write a library of machine code whose inputs are those of the example, with open batch and time."""
    check_compiler()
    with exporting.without_messages(), torch.no_grad():
        program = exporting.exported_program(model)
        _pass_sizes_to_loops(program)
        settings = {
            "cpp.dynamic_threads": True,  # otherwise the file uses as many threads as this process has
            # PyTorch 2.13 otherwise declares results of a second loop twice, and stops at patches with a residual
            "inplace_buffers": False,
            "realize_reads_threshold": 1,
        }
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def runner(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs a library of `write` on arrays by name."""
    with exporting.without_messages():
        program = torch._inductor.aoti_load_package(str(path))
    return exporting.run_by_name(program)


def check_compiler() -> None:
    """Raise an error unless there is a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise DependencyError(
            "aoti",
            expected="a C++ compiler, such as g++",
            received="none",
            hint="Install one, or set the environment variable `CXX` to the name of its program.",
        ) from error


def _pass_sizes_to_loops(program: ExportedProgram) -> None:
    """Add the open sizes of the arrays that a `scan` returns to its inputs.

    The compiler reads them there when it makes the loop (`decompose_scan_to_while_loop` in PyTorch 2.13), but
    `torch.export` passes only those that the body of the loop reads.
    """
    graph = program.graph_module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.scan):
        body, carried, arrays, further = node.args
        body_graph = program.graph_module.get_submodule(body.target).graph
        *_, last_input = body_graph.find_nodes(op="placeholder")
        sizes = []
        for symbol in _symbols(node):
            source, axis = _array_of_size(graph, symbol)
            with graph.inserting_before(node):
                sizes.append(graph.call_function(torch.ops.aten.sym_size.int, (source, axis)))
            sizes[-1].meta["val"] = source.meta["val"].shape[axis]
            with body_graph.inserting_after(last_input):
                last_input = body_graph.placeholder(f"size_{symbol}")
            last_input.meta["val"] = sizes[-1].meta["val"]
        node.args = (body, carried, arrays, (*further, *sizes))
        program.graph_module.get_submodule(body.target).recompile()
    program.graph_module.recompile()


def _symbols(node: Node) -> list[Any]:
    """Return the symbols of the open sizes of a node's results."""
    sizes = [n for array in node.meta["val"] for n in array.shape if isinstance(n, torch.SymInt)]
    return sorted({symbol for n in sizes for symbol in n.node.expr.free_symbols}, key=str)


def _array_of_size(graph: Graph, symbol: Any) -> tuple[Node, int]:
    """Return the first array with an axis of this size, and the axis."""
    for node in graph.nodes:
        array = node.meta.get("val")
        for axis, n in enumerate(array.shape if isinstance(array, torch.Tensor) else ()):
            if isinstance(n, torch.SymInt) and n.node.expr == symbol:
                return node, axis
    raise LookupError(f"no array has an axis of size {symbol}")
