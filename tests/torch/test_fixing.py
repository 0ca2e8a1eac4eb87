"""Blocks of fixed weights in PyTorch: values, changes of the weights, and what is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convlstm.engine.torch import fixed_weights as engine
from convlstm.engine.torch import winograd_rule as rule
from convlstm.engine.torch.convolution import can_add
from convlstm.errors import SpecError, WeightsError
from convlstm.torch import ConvLSTM, ConvLSTMCell, StatefulConvLSTM, fixed_weights

needs_reordered_kernels = pytest.mark.skipif(not can_add(torch.empty(1, 1, 1, 1)), reason="needs oneDNN")
DIRECT = (5, 8, (9, 11))
WINOGRAD = (64, 64, (32, 32))


def run(cell: ConvLSTMCell, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    state = None
    for frame in frames:
        state = cell(frame, state)
    assert state is not None
    return state


def make(channels: int, hidden: int, size: tuple[int, int], **options: object) -> tuple[ConvLSTMCell, torch.Tensor]:
    torch.manual_seed(0)
    return ConvLSTMCell(channels, hidden, 3, **options), torch.randn(3, 2, channels, *size)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("shape", [DIRECT, WINOGRAD])
def test_stream_has_the_values_of_one_without_the_block(mode, shape) -> None:
    cell, frames = make(*shape, peephole="channel")
    with mode():
        expected = run(cell, frames)
        with fixed_weights(cell):
            state = run(cell, frames)
    torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_single_step_of_fixed_weights_repays_winograds_convolution() -> None:
    (channels, hidden, size), batch = WINOGRAD, 2
    (layer,) = ConvLSTMCell(channels, hidden, 3).spec.layers
    assert not rule.is_faster(layer, 1, batch, size)
    assert rule.is_faster(layer, 1, batch, size, has_fixed_weights=True)


def test_layer_over_sequences_of_several_sizes_has_the_same_values_and_gradients() -> None:
    layer = ConvLSTM(3, [8, 4], 3, direction="bidirectional")
    for steps, size in ((1, 6), (4, 6), (4, 9), (1, 6)):
        x = torch.randn(2, steps, 3, size, size)
        layer.zero_grad()
        expected = layer(x)[0]
        expected.square().sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        layer.zero_grad()
        with fixed_weights(layer):
            output = layer(x)[0]
            output.square().sum().backward()
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close([p.grad for p in layer.parameters()], gradients)


@needs_reordered_kernels
@pytest.mark.parametrize("shape", [DIRECT, WINOGRAD])
def test_kernels_are_reordered_once(shape, monkeypatch) -> None:
    cell, frames = make(*shape)
    count = 0
    reorder = torch.ops.mkldnn._reorder_convolution_weight

    def counted(*arguments: object) -> torch.Tensor:
        nonlocal count
        count += 1
        return reorder(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", counted)
    with torch.inference_mode(), fixed_weights(cell):
        state = cell(frames[0], run(cell, frames))
        first = count
        for _ in range(3):
            state = cell(frames[0], state)
    assert first == count > 0


@needs_reordered_kernels
@pytest.mark.parametrize("shape", [DIRECT, WINOGRAD])
def test_change_in_place_takes_effect(shape) -> None:
    cell, frames = make(*shape)
    with torch.no_grad(), fixed_weights(cell):
        before, _ = run(cell, frames)
        cell.weight_hh_l0.mul_(0.5)
        changed, _ = run(cell, frames)
        cell.load_state_dict({name: weight + 0.1 for name, weight in cell.state_dict().items()})
        loaded, _ = run(cell, frames)
        moved = cell.weight_ih_l0.clone()
        cell.weight_ih_l0.data = moved.mul_(-1)
        replaced, _ = run(cell, frames)
    after, _ = run(cell, frames)
    torch.testing.assert_close(replaced, after, rtol=1e-4, atol=1e-5)
    for one, other in ((before, changed), (changed, loaded), (loaded, replaced)):
        assert (one - other).abs().max() > 1e-3


@needs_reordered_kernels
def test_write_through_data_is_an_error_at_the_end_of_the_block() -> None:
    cell, frames = make(*DIRECT)
    block = fixed_weights(cell)
    with torch.no_grad():
        block.__enter__()
        run(cell, frames)
        cell.weight_hh_l0.data.mul_(2)
        with pytest.raises(WeightsError, match=r"weight_hh_l0: expected no write through `\.data`.*in place under"):
            block.__exit__(None, None, None)
        state = run(cell, frames)
        with fixed_weights(cell):
            torch.testing.assert_close(run(cell, frames), state)


@needs_reordered_kernels
def test_error_inside_the_block_is_not_replaced() -> None:
    cell, frames = make(*DIRECT)

    @fixed_weights(cell)
    def change_and_fail() -> None:
        run(cell, frames)
        cell.weight_hh_l0.data.mul_(2)
        raise KeyError

    with torch.no_grad(), pytest.raises(KeyError):
        change_and_fail()
    assert not engine._FIXED


@needs_reordered_kernels
def test_inner_block_does_not_end_the_outer_one() -> None:
    cell, frames = make(*DIRECT)
    stream = StatefulConvLSTM(ConvLSTM(1, 2, 3))
    with torch.no_grad(), fixed_weights(cell):
        with fixed_weights(nn.ModuleList([cell, stream])):
            run(cell, frames)
        assert engine.are_fixed([cell.weight_hh_l0])
        assert not engine.are_fixed([stream.layer.weight_hh_l0])
    assert not engine.are_fixed([cell.weight_hh_l0])


@needs_reordered_kernels
def test_error_of_an_inner_block_leaves_no_old_kernel_in_the_outer_one() -> None:
    cell, frames = make(*DIRECT)
    with torch.no_grad():
        with fixed_weights(cell):
            run(cell, frames)
            with pytest.raises(WeightsError), fixed_weights(cell):  # noqa: PT012
                run(cell, frames)
                cell.weight_hh_l0.data.mul_(2)
            state = run(cell, frames)
        torch.testing.assert_close(state, run(cell, frames))


def test_copy_is_made_if_a_block_of_another_thread_has_ended() -> None:
    assert engine.cached([torch.zeros(1)], "key", lambda: "copy") == "copy"


def test_module_without_a_layer_is_refused() -> None:
    with pytest.raises(SpecError, match="module with a ConvLSTM, got Linear"), fixed_weights(nn.Linear(1, 1)):
        pass


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        cell = ConvLSTMCell(1, 2, 3)
    with pytest.raises(SpecError, match="made outside"), fixed_weights(cell):
        pass
