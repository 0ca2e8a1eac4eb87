"""Compiling, exporting, autocast, copying and moving the layer."""

from __future__ import annotations

import io
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend
from torch.export import Dim, export
from torch.utils.flop_counter import FlopCounterMode

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_layers import random_case
from convlstm.engine.torch import operators
from convlstm.errors import ShapeError, SpecError
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster, StatefulConvLSTM, compat

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rich": {
        "peephole": "channel",
        "norm": "layer",
        "boundary": ("zeros", "circular"),
        "bidirectional": True,
        "duration_strategy": "mlp",
    },
    "normed": {"norm": "group", "norm_groups": 2},
    "strided": {"stride": 2, "groups": 2, "recurrent_activation": "hard_sigmoid", "activation": "softsign"},
}


def build(name: str) -> tuple[ConvLSTM, dict[str, Any]]:
    layer = ConvLSTM(2, 4, 3, **OPTIONS[name])
    given = {"durations": torch.rand(3, 3) + 0.5} if "duration_strategy" in OPTIONS[name] else {}
    return layer, given


def flat(result: Any) -> list[Tensor]:
    output, (h, c) = result
    return [output, *h, *c]


@pytest.mark.parametrize(
    ("name", "masked"), [("plain", False), ("plain", True), ("rich", True), ("normed", False), ("strided", False)]
)
def test_compiled_equals_eager(name: str, masked: bool) -> None:
    layer, given = build(name)
    x = torch.randn(3, 3, 2, 6, 8)
    if masked:
        given["lengths"] = torch.tensor([3, 0, 2])
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        layer.zero_grad()
        tensors = flat(run(x, **given))
        sum(t.pow(2).sum() for t in tensors).backward()
        results.append([*tensors, *(p.grad for p in layer.parameters())])
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-5)  # float32, other order of the same sums


COMPILED: dict[str, dict[str, Any]] = {
    "plain": {},
    "both ways, two layers": {"bidirectional": True, "num_layers": 2, "peephole": "channel"},
    "without bias": {"bias": False, "padding": "valid", "dilation": 2},
    "one dimension": {"spatial_dims": 1},
    "three dimensions": {"spatial_dims": 3},
    "checkpoint": {"checkpoint": 2},
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_graph_calls_the_fused_implementation(name: str) -> None:
    layer = ConvLSTM(2, 4, 3, **COMPILED[name])
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        graphs.append(graph.print_readable(print_output=False))
        return lookup_backend("aot_eager")(graph, example)

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = torch.randn(3, 4, 2, *(9,) * layer.spec.spatial_dims, requires_grad=True)
    results = []
    for run in (layer, compiled):
        tensors = flat(run(x))
        loss = sum(t.pow(2).sum() for t in tensors)
        results.append([*tensors, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    assert all(torch.equal(eager, other) for eager, other in zip(*results, strict=True))
    assert "convlstm.recurrence_with_gradient" in graphs[0]
    with torch.no_grad():
        assert torch.equal(compiled(x)[0], results[0][0])
    assert "convlstm.recurrence(" in graphs[1]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it where a second graph begins
def test_training_in_a_graph_that_may_end_calls_the_layer_as_if_nothing_were_compiled() -> None:
    model = torch.nn.Sequential(torch.nn.Conv3d(2, 2, 1), ConvLSTM(3, [4, 4], 3, zoneout_h=0.0))
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        graphs.append(graph.print_readable(print_output=False))
        return lookup_backend("aot_eager")(graph, example)

    def run(x: Tensor) -> Tensor:
        return model[1](model[0](x))[0].square().sum()

    torch._dynamo.reset()
    x = torch.randn(2, 2, 3, 6, 6)  # the convolution takes time for channels: (batch, channel, time, height, width)
    losses = [call(x) for call in (run, torch.compile(run, backend=backend))]
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    # the convolution before the layer may round in another order, as the memory of its gradient is another
    for eager, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-5, atol=1e-5)
    assert graphs
    assert not any("recurrence" in graph or "sigmoid" in graph for graph in graphs)
    with torch.no_grad():
        torch.compile(run, backend=backend)(x)
    assert "convlstm.recurrence(" in "".join(graphs)


def test_outputs_of_all_layers_of_a_compiled_layer_may_be_changed_in_place() -> None:
    layer, x = ConvLSTM(3, [4, 4], 3), torch.randn(2, 5, 3, 6, 6)
    torch._dynamo.reset()
    gradients = []
    for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        first, last = run(x, all_layers=True)[0]
        first.mul_(2)
        gradients.append(torch.autograd.grad(first.sum() + last.sum(), list(layer.parameters())))
    for eager, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("operator", ["recurrence", "recurrence_with_gradient"])
def test_the_operators_of_a_compiled_graph_keep_the_rules_of_pytorch(operator: str, dims: int) -> None:
    layer, x = ConvLSTM(2, 4, 3, spatial_dims=dims), torch.randn(3, 2, 2, *(6,) * dims)
    weights = {name: w.detach() for name, w in layer.layer_weights().items()}
    arrays = [weights["weight_ih"], weights["bias"], weights["weight_hh"], None]
    shape = [2, 4, *(6,) * dims]
    arguments = (x, None, None, *arrays, operators._description(layer.spec.layers[0]), shape, 3, False)
    torch.library.opcheck(getattr(torch.ops.convlstm, operator).default, arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stateful_layer_is_not_exported_without_its_state() -> None:
    layer, x = StatefulConvLSTM(ConvLSTM(2, 4, 3)).eval(), torch.randn(2, 3, 2, 6, 6)
    for transform in (lambda: export(layer, (x,)), lambda: torch.jit.trace(layer, x)):
        with pytest.raises(SpecError, match="drop its state"):
            transform()


def test_an_open_number_of_steps_is_not_exported_in_training_with_dropout() -> None:
    layer, x = ConvLSTM(2, 4, 3, zoneout_h=0.2), torch.randn(3, 5, 2, 6, 6)
    with pytest.raises(SpecError, match=r"eval\(\)"):
        export(layer, (x,), dynamic_shapes={"x": {1: Dim("time")}})


def test_a_compiled_layer_takes_other_sizes_and_outputs_changed_in_place() -> None:
    layer = ConvLSTM(2, 4, 3)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, steps, height in ((2, 3, 6), (3, 5, 8), (4, 2, 7)):
        x = torch.randn(batch, steps, 2, height, 9)
        gradients = []
        for run in (layer, compiled):
            output = run(x)[0]
            torch.relu_(output)
            gradients.append(torch.autograd.grad(output.sum(), list(layer.parameters())))
        for eager, other in zip(*gradients, strict=True):
            torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-5)


@torch._functorch.config.patch(donated_buffer=False)  # else PyTorch itself refuses the second pass
def test_a_second_backward_pass_of_a_compiled_layer_gives_the_same_bits() -> None:
    layer, x = ConvLSTM(2, 4, 3), torch.randn(2, 3, 2, 6, 6)
    torch._dynamo.reset()
    loss = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0].square().sum()
    first, second = (torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("strategy", ["linear", "log", "log1p", "scalar", "exp", "mlp"])
def test_bad_duration_in_compiled_code_gives_nan(strategy: str) -> None:
    layer, x = ConvLSTM(1, 2, 3, duration_strategy=strategy), torch.randn(2, 3, 1, 4, 4)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for bad in (-0.5, float("inf"), float("nan")):
        durations = torch.ones(2, 3)
        durations[1, 1] = bad
        output, _ = compiled(x, durations=durations)
        assert output[0].isfinite().all()
        assert output[1, 0].isfinite().all()
        assert output[1, 1:].isnan().all(), bad


@torch.no_grad()
def test_bad_gaps_in_compiled_code_give_nan() -> None:
    layer = ConvLSTM(1, 2, 3, memory_decay=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    gaps = torch.tensor([[1.0, -1.0, 1.0]])
    assert compiled(torch.randn(1, 3, 1, 4, 4), gaps=gaps)[0][:, 1:].isnan().all()


def test_a_compiled_cell_and_forecaster() -> None:
    cell, frame = ConvLSTMCell(1, 4, 3, peephole="channel"), torch.randn(2, 1, 6, 6)
    state = tuple(part.detach() for part in cell(frame))
    torch._dynamo.reset()
    again = torch.compile(cell, fullgraph=True, backend="aot_eager")(frame, state)
    torch.testing.assert_close(again, cell(frame, state))
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3)
    model, frames = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True)), torch.randn(2, 2, 1, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(frames, 2), model(frames, 2))


class FixedHorizon(torch.nn.Module):
    def __init__(self, model: Forecaster) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        return self.model(frames, 2)


@pytest.mark.parametrize("name", ["plain", "strided", "normed"])
def test_export_with_free_batch_and_height(name: str) -> None:
    layer, _ = build(name)
    layer.eval()
    shapes = ({0: Dim("batch", min=1, max=64), 3: 2 * Dim("half_height", min=2, max=64)},)
    program = export(layer, (torch.randn(3, 5, 2, 6, 8),), dynamic_shapes=shapes).module()
    for batch, height in ((3, 6), (1, 10), (7, 4)):
        x = torch.randn(batch, 5, 2, height, 8)
        for a, b in zip(flat(program(x)), flat(layer(x)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


OPEN_TIME: dict[str, dict[str, Any]] = {
    "plain": {},
    "both ways, two layers": {"bidirectional": True, "num_layers": 2, "peephole": "channel"},
    "strided": {"stride": 2},
    "normed": {"norm": "group", "norm_groups": 2},
    "durations": {"duration_strategy": "mlp"},
    "held outputs": {"masked_output": "hold"},
    "checkpoint": {"checkpoint": 2},
}


def inputs_of_open_time(layer: ConvLSTM, batch: int, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    given = {}
    if layer.spec.duration_strategy != "none":
        given["durations"] = torch.rand(batch, steps) + 0.5
    if layer.spec.masked_output == "hold":
        given["mask"] = torch.rand(batch, steps) > 0.3
    return torch.randn(batch, steps, 2, 10, 8), given


@pytest.mark.parametrize("name", OPEN_TIME)
def test_export_with_an_open_number_of_steps(name: str) -> None:
    layer = ConvLSTM(2, 4, 3, **OPEN_TIME[name]).eval()
    x, given = inputs_of_open_time(layer, 3, 5)
    open_axes = {0: Dim("batch", max=64), 1: Dim("time", max=1000)}
    shapes = {"x": open_axes} | dict.fromkeys(given, open_axes)
    program = export(layer, (x,), given, dynamic_shapes=shapes, strict=False).module()
    for batch, steps in ((3, 5), (4, 9)):
        x, given = inputs_of_open_time(layer, batch, steps)
        for a, b in zip(flat(program(x, **given)), flat(layer(x, **given)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own steps, and of axes that share a name
@pytest.mark.parametrize("name", ["both ways, two layers", "durations", "held outputs"])
def test_an_onnx_file_takes_any_number_of_steps(name: str, tmp_path: Path) -> None:
    layer = ConvLSTM(2, 4, 3, **OPEN_TIME[name]).eval()
    x, given = inputs_of_open_time(layer, 3, 5)
    open_axes = {0: Dim("batch", max=64), 1: Dim("time", max=1000)}
    shapes = {"x": open_axes} | dict.fromkeys(given, open_axes)
    program = torch.onnx.export(layer, (x,), kwargs=given, dynamic_shapes=shapes, dynamo=True, verbose=False)
    program.save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    x, given = inputs_of_open_time(layer, 4, 9)
    feeds = {node.name: array.numpy() for node, array in zip(session.get_inputs(), (x, *given.values()), strict=True)}
    torch.testing.assert_close(torch.tensor(session.run(None, feeds)[0]), layer(x, **given)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the exporter is out of date, and warns of its own steps
def test_the_older_onnx_exporter_writes_the_same_numbers(tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=2, kernel_size=3)
    forecaster = FixedHorizon(Forecaster(ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2)))
    x = torch.randn(2, 3, 2, 8, 8)
    for module in (ConvLSTM(2, 4, 3, num_layers=2), compat.ConvLSTM(2, 4, (3, 3), 1, batch_first=True), forecaster):
        module.eval()
        torch.onnx.export(module, (x,), tmp_path / "model.onnx", dynamo=False)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        output = torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        expected = module(x)
        while not isinstance(expected, Tensor):
            expected = expected[0]
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_export_of_a_cell_with_a_free_batch() -> None:
    cell = ConvLSTMCell(1, 4, 3, peephole="channel").eval()
    frame, state = torch.randn(3, 1, 6, 6), (torch.randn(3, 4, 6, 6), torch.randn(3, 4, 6, 6))
    batch = Dim("batch", max=64)
    program = export(cell, (frame, state), dynamic_shapes=({0: batch}, ({0: batch}, {0: batch}))).module()
    frame, state = torch.randn(5, 1, 6, 6), (torch.randn(5, 4, 6, 6), torch.randn(5, 4, 6, 6))
    torch.testing.assert_close(program(frame, state), cell(frame, state))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_an_exported_forecaster_survives_a_file(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3, peephole="channel")
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True, rollout=rollout)).eval()
    program = export(FixedHorizon(model), (torch.randn(2, 2, 1, 8, 8),), dynamic_shapes=({0: Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    frames = torch.randn(5, 2, 1, 8, 8)
    torch.testing.assert_close(torch.export.load(file).module()(frames), model(frames, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_autocast_keeps_weights_gradients_and_c_in_float32(name: str) -> None:
    layer, given = build(name)
    x = torch.randn(3, 3, 2, 6, 8)
    exact = flat(layer(x, **given))
    with torch.autocast("cpu", torch.bfloat16):
        output, (h, c) = layer(x, **given)
    assert {output.dtype, *(a.dtype for a in h)} == {torch.bfloat16}
    assert {a.dtype for a in c} == {torch.float32}
    for a, b in zip(flat((output, (h, c))), exact, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=5e-2, atol=5e-2)  # bfloat16: docs/contract.md, Precision
    sum(t.float().pow(2).sum() for t in (output, *h, *c)).backward()
    of_cast = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    sum(t.pow(2).sum() for t in exact).backward()
    for gradient, parameter in zip(of_cast, layer.parameters(), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - parameter.grad).abs().max() / max(1.0, parameter.grad.abs().max().item()) < 5e-2


def test_autocast_of_the_generic_path_agrees_with_the_fused_one() -> None:
    layer, x = ConvLSTM(1, 4, 3, peephole="channel"), torch.randn(2, 4, 1, 6, 6)
    everywhere = torch.ones(2, 4, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        quick, plain = flat(layer(x)), flat(layer(x, mask=everywhere))
    for a, b in zip(quick, plain, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_state_follows_the_type_of_the_layer(dtype: torch.dtype) -> None:
    layer = ConvLSTM(1, 2, 3, num_layers=2, dtype=dtype)
    x = torch.randn(2, 3, 1, 5, 5, dtype=dtype)
    output, state = layer(x)
    assert output.dtype == dtype
    assert {c.dtype for c in state[1]} == {torch.float64 if dtype == torch.float64 else torch.float32}
    again, _ = layer(x, state)
    again.float().sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in layer.parameters())
    moved = ConvLSTM(1, 2, 3, num_layers=2).to(dtype)
    assert {p.dtype for p in moved.parameters()} == {dtype}


def test_a_copy_is_its_own() -> None:
    layer, x = ConvLSTM(1, 4, 3, num_layers=2), torch.randn(2, 3, 1, 6, 6)
    twin = deepcopy(layer)
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
    with torch.no_grad():
        twin.weight_hh_l0.zero_()
    assert (twin(x)[0] != layer(x)[0]).any()
    assert twin.spec == layer.spec


@pytest.mark.parametrize("seed", [0, 1])
def test_state_dict_is_the_parameters_before_and_after_use(seed: int) -> None:
    layer = ConvLSTM(1, 4, 3, num_layers=2, bidirectional=True, peephole="channel")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    _, state = layer(torch.randn(2, 3, 1, 6, 6))
    layer(torch.randn(2, 3, 1, 6, 6), state)
    assert layer.state_dict().keys() == before.keys() == dict(layer.named_parameters()).keys()
    assert not list(layer.buffers())
    other = ConvLSTM(1, 4, 3, num_layers=2, bidirectional=True, peephole="channel")
    other.load_state_dict(before)
    x = torch.randn(2, 3, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)


def test_names_are_those_of_torch_nn_lstm() -> None:
    ours = dict(ConvLSTM(3, 4, 1, num_layers=2, bidirectional=True).named_parameters())
    theirs = dict(torch.nn.LSTM(3, 4, 2, bidirectional=True).named_parameters())
    assert {name for name in ours if "weight" in name} == {name for name in theirs if "weight" in name}
    assert {name for name in ours if "bias" in name} == {f"bias_l{n}{r}" for n in (0, 1) for r in ("", "_reverse")}
    for name, parameter in theirs.items():
        if "weight" in name:
            assert tuple(ours[name].shape) == (*parameter.shape, 1, 1)


def test_inference_mode_no_grad_and_threads_agree() -> None:
    layer, x = ConvLSTM(1, 4, 3, peephole="channel"), torch.randn(2, 6, 1, 8, 8)
    expected = layer(x)[0].detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(layer(x)[0], expected)
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(20):
            found.append(layer(x)[0].detach())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(torch.equal(value, expected) for value in found)


def test_meta_device_and_reset() -> None:
    layer = ConvLSTM(1, 4, 3, device="meta")
    assert layer.weight_hh_l0.is_meta
    layer.to_empty(device="cpu").reset_parameters(seed=3)
    other = ConvLSTM(1, 4, 3)
    other.reset_parameters(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))
    torch.manual_seed(5)
    first = ConvLSTM(1, 4, 3)
    torch.manual_seed(5)
    assert torch.equal(ConvLSTM(1, 4, 3).weight_ih_l0, first.weight_ih_l0)
    assert not torch.equal(ConvLSTM(1, 4, 3).weight_ih_l0, first.weight_ih_l0)


def test_it_prints_what_differs_from_the_defaults() -> None:
    assert repr(ConvLSTM(1, 8, 3)) == "ConvLSTM(1, 8, kernel_size=3)"
    layer = ConvLSTM(
        2,
        [8, 4],
        (3, 5),
        stride=[(2, 2), (1, 1)],
        batch_first=False,
        bidirectional=True,
        peephole="channel",
        dropout=0.5,
    )
    assert repr(layer) == (
        "ConvLSTM(2, [8, 4], kernel_size=(3, 5), stride=[(2, 2), (1, 1)], peephole='channel', "
        "direction='bidirectional', dropout=0.5, batch_first=False)"
    )
    assert repr(ConvLSTM(1, 8, 3, recurrent_kernel_size=1, bias=False)) == (
        "ConvLSTM(1, 8, kernel_size=3, recurrent_kernel_size=1, bias=False)"
    )
    assert repr(ConvLSTM(1, 8, 3, spatial_dims=3)) == "ConvLSTM(1, 8, kernel_size=3, spatial_dims=3)"


@pytest.mark.parametrize("seed", range(200))
def test_what_is_printed_builds_the_same_layer(seed: int) -> None:
    spec = random_case(seed, duration_hidden=(16, 16) if seed == 3 else (4,), duration_strategy="mlp").spec
    layer = ConvLSTM.from_spec(spec)
    assert eval(repr(layer), {"ConvLSTM": ConvLSTM}).spec == spec  # noqa: S307


def test_layers_are_built_and_called_where_there_are_no_numbers() -> None:
    """Deferred initialisation: a context of the meta device, and frames on it."""
    with torch.device("meta"):
        stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
        layer, model = ConvLSTM(1, 4, 3), Forecaster(ForecasterSpec(encoder=stack))
    assert {p.device.type for p in (*layer.parameters(), *model.parameters())} == {"meta"}
    output, (h, _) = layer(torch.empty(2, 3, 1, 8, 8, device="meta"), lengths=[1, 3])
    assert (tuple(output.shape), h[0].device.type) == ((2, 3, 4, 8, 8), "meta")
    real = layer.to_empty(device="cpu")
    real.reset_parameters(0)
    assert real(torch.zeros(2, 3, 1, 8, 8))[0].isfinite().all()


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}])
@pytest.mark.parametrize("masked", [False, True])
def test_autocast_leaves_float64_alone(options: dict[str, Any], masked: bool) -> None:
    layer = ConvLSTM(1, 4, 3, dtype=torch.float64, **options)
    x, mask = torch.randn(2, 3, 1, 6, 6, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool) if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x, mask=mask)[0]
        with pytest.raises(ShapeError, match="float64"):
            ConvLSTM(1, 4, 3, **options)(x, mask=mask)
    assert torch.equal(output, layer(x, mask=mask)[0])


def test_counters_and_traces_see_the_convolutions() -> None:
    layer, x = ConvLSTM(1, 4, 3).eval(), torch.randn(2, 5, 1, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x, (torch.zeros(2, 4, 8, 8),) * 2)
    assert counter.get_total_flops() == 2 * 2 * 5 * 64 * 16 * (1 + 4) * 9
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x)  # zeros need no convolution
    assert counter.get_total_flops() == 2 * 2 * 64 * 16 * (5 * 1 + 4 * 4) * 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_made_with_gradients_is_right() -> None:
    layer, x = ConvLSTM(1, 4, 3, num_layers=2).eval(), torch.randn(2, 5, 1, 8, 8)
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x + 1)[0], layer(x + 1)[0])
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x)[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", [ConvLSTM(1, 4, 3), ConvLSTMCell(1, 4, 3)])
def test_a_script_is_refused_with_what_to_do_instead(module: torch.nn.Module) -> None:
    with pytest.raises(SpecError, match=r"torch.export.export"):
        torch.jit.script(module)


def test_vmap_over_lengths() -> None:
    layer, xs = ConvLSTM(1, 3, 3), torch.randn(4, 2, 5, 1, 6, 6)
    lengths = torch.tensor([[1, 5], [2, 2], [0, 3], [4, 4]])
    found = torch.vmap(lambda x, n: layer(x, lengths=n)[0])(xs, lengths)
    wanted = torch.stack([layer(x, lengths=n)[0] for x, n in zip(xs, lengths, strict=True)])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_compiled_and_checkpointed_agree_with_eager(masked: bool) -> None:
    options = {"hidden_channels": [3, 2], "peephole": "channel", "norm": "layer" if masked else "none"}
    layer = ConvLSTM(1, kernel_size=3, **options)
    twin = ConvLSTM(1, kernel_size=3, checkpoint=2, **options)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 1, 6, 6)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool) if masked else None
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    gradients = []
    for one in (layer, twin, compiled):
        twin.zero_grad()
        layer.zero_grad()
        one(x, mask=mask)[0].square().sum().backward()
        gradients.append([p.grad.clone() for p in (layer if one is layer else twin).parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-5)


def test_autocast_of_a_forecaster() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 5], kernel_size=3)
    model, frames = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True)), torch.randn(2, 3, 1, 8, 6)
    assert sorted(model.state_dict()) == sorted(dict(model.named_parameters()))
    exact = model(frames, 3)
    with torch.autocast("cpu", torch.bfloat16):
        quick = model(frames, 3)
    torch.testing.assert_close(quick.float(), exact, rtol=5e-2, atol=5e-2)  # bfloat16: docs/contract.md, Precision
    quick.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
