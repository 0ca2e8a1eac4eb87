"""The call forms of the PyTorch documents: they run as written, equal the reference, and train."""

from __future__ import annotations

import pytest
import torch

from convlstm import ConvLSTMSpec
from convlstm.conformance.drop_in import check
from convlstm.conformance.drop_in_lines.torch import EXAMPLES
from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.torch import ConvLSTMCell, compat


@pytest.mark.parametrize("form", EXAMPLES, ids=lambda form: f"{form.project} {form.line}")
def test_forms(form) -> None:
    checked = check(form)
    assert not checked.failure
    assert checked.outcome is not None
    assert checked.outcome.difference < 1e-5


def test_a_gate_without_a_batch() -> None:
    gate, x, h = compat.ConvGate(1, 4, 3), torch.rand(1, 8, 8), torch.rand(4, 8, 8)
    for alone, row in zip(gate(x, h), gate(x[None], h[None]), strict=True):
        torch.testing.assert_close(alone, row[0])


def test_the_shapes_the_documents_promise() -> None:
    convlstm = compat.ConvLSTM(1, 16, (3, 3), 1, batch_first=True, bias=True, return_all_layers=False)
    assert convlstm.input_dim == 1
    assert (convlstm.hidden_dim, convlstm.kernel_size, convlstm.num_layers) == ([16], [(3, 3)], 1)
    outputs, last_states = convlstm(torch.rand(4, 2, 1, 128, 128))
    assert last_states[0][0].shape == (4, 16, 128, 128)
    assert [tuple(o.shape) for o in outputs] == [(4, 2, 16, 128, 128)]


@pytest.mark.parametrize("kernels", [[3, 5], [(3, 3), (5, 5)], [(3, 3), 5]], ids=str)
def test_a_list_of_kernels_is_per_layer_in_this_form(kernels: list) -> None:
    assert compat.ConvLSTM(1, [4, 4], kernels, 2).kernel_size == [(3, 3), (5, 5)]


def test_time_comes_first_by_default() -> None:
    x = torch.rand(2, 5, 1, 8, 8)
    late = compat.ConvLSTM(1, [4, 3], (3, 3), 2, batch_first=True, return_all_layers=True)
    early = compat.ConvLSTM(1, [4, 3], (3, 3), 2, return_all_layers=True)
    early.load_state_dict(late.state_dict())
    (a, b), (c, d) = late(x)[0], early(x.transpose(0, 1))[0]
    torch.testing.assert_close((a, b), (c, d))
    assert len(late(x)[1]) == 2
    assert tuple(b.shape) == (2, 5, 3, 8, 8)


def test_stateful_layers_over_several_backward_passes() -> None:
    x = torch.rand(2, 6, 1, 8, 8)
    layer = compat.ConvLSTM(1, [4, 5], (3, 3), 2, batch_first=True, stateful=True)
    whole = compat.ConvLSTM(1, [4, 5], (3, 3), 2, batch_first=True)
    whole.load_state_dict(layer.state_dict())
    outputs = []
    for part in x.split(2, dim=1):
        (output,), _ = layer(part)
        output.square().mean().backward()
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole(x)[0][0])
    assert [tuple(h.shape) for h, _ in layer.last_state] == [(2, 4, 8, 8), (2, 5, 8, 8)]
    layer.reset_state()
    assert layer.last_state is None
    torch.testing.assert_close(layer(x[:, :2])[0][0], outputs[0])


def test_state_changed_in_place_does_not_change_the_next_call() -> None:
    layer, x = compat.ConvLSTM(1, 3, 3, 1, batch_first=True, stateful=True), torch.rand(2, 4, 1, 8, 8)
    whole = layer(x)[0][0]
    layer.reset_state()
    with torch.no_grad():
        first, ((h, c),) = layer(x[:, :2])
        h.fill_(9.0)
        c.fill_(9.0)
        torch.testing.assert_close(torch.cat([first[0], layer(x[:, 2:])[0][0]], dim=1), whole)


def test_smaller_last_batch_is_refused_with_a_hint(refused) -> None:
    layer = compat.ConvLSTM(1, 4, 3, 1, batch_first=True, stateful=True)
    layer(torch.rand(2, 3, 1, 8, 8))
    with refused(StateError, "x"):
        layer(torch.rand(1, 3, 1, 8, 8))
    with pytest.raises(StateError, match="h_0"):
        layer(torch.rand(1, 3, 1, 8, 8), [(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8))])


def test_a_given_state_is_read_layer_by_layer() -> None:
    layer = compat.ConvLSTM(1, [4, 5], (3, 3), 2, batch_first=True, return_all_layers=True)
    x = torch.rand(2, 6, 1, 8, 8)
    whole = layer(x)
    _, state = layer(x[:, :4])
    rest = layer(x[:, 4:], state)
    torch.testing.assert_close(rest[1], whole[1])
    torch.testing.assert_close(rest[0][0], whole[0][0][:, 4:])


def test_the_cells_of_a_stack_are_the_stack() -> None:
    layer = compat.ConvLSTM(1, [4, 5], [(3, 3), (5, 5)], 2, batch_first=True)
    x = torch.rand(2, 3, 1, 8, 8)
    cells = layer.cell_list
    states = [cell.init_hidden(2, (8, 8)) for cell in cells]
    for below in x.unbind(1):
        for n, cell in enumerate(cells):
            states[n] = cell(input_tensor=states[n - 1][0] if n else below, cur_state=states[n])
    torch.testing.assert_close(states[-1], layer(x)[1][0])
    states[-1][0].sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert {name for name, _ in layer.named_parameters()} == set(layer.state_dict())


def test_looking_at_the_cells_draws_nothing_and_follows_the_mode() -> None:
    layer = compat.ConvLSTM(1, 4, 3, 2, zoneout_h=0.5).eval()
    before = torch.get_rng_state()
    assert [cell.training for cell in layer.cell_list] == [False, False]
    assert torch.equal(torch.get_rng_state(), before)
    cell = layer.cell_list[0]
    assert (cell.input_dim, cell.hidden_dim, cell.kernel_size, cell.bias) == (1, 4, (3, 3), True)


def test_the_old_form_from_a_spec() -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3)
    outputs, ((h, _),) = compat.ConvLSTM.from_spec(spec)(torch.rand(5, 2, 1, 8, 8))
    assert (tuple(outputs[0].shape), tuple(h.shape)) == ((2, 5, 4, 8, 8), (2, 4, 8, 8))
    assert "stateful=True" in repr(compat.ConvLSTM(1, 4, 3, 2, stateful=True))


@pytest.mark.slow
def test_the_notebook_at_its_full_size() -> None:
    x = torch.rand((32, 10, 1, 128, 128))
    convlstm = compat.ConvLSTM(1, 16, (3, 3), 1, batch_first=True, bias=True, return_all_layers=False)
    with torch.no_grad():
        _, last_states = convlstm(x)
    assert last_states[0][0].shape == (32, 16, 128, 128)


def test_even_kernels_work() -> None:
    h, _ = compat.ConvLSTMCell(1, 4, (2, 4), True)(torch.rand(2, 1, 8, 8))
    assert tuple(h.shape) == (2, 4, 8, 8)
    assert compat.ConvLSTM(1, 4, 2, 1, batch_first=True)(torch.rand(2, 3, 1, 8, 8))[0][0].shape[-2:] == (8, 8)


def test_low_precision() -> None:
    cell = compat.ConvLSTMCell(1, 4, 3).bfloat16()
    h, c = cell(torch.rand(2, 1, 8, 8, dtype=torch.bfloat16))
    assert (h.dtype, c.dtype) == (torch.bfloat16, torch.float32)
    assert cell.init_hidden(2, (8, 8))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("strategy", ["linear", "log", "exp", "scalar", "mlp", lambda r: r.sqrt()])
def test_durations_of_one_row_or_all_equal_give_no_nan(strategy) -> None:
    cell = compat.DurationAwareConvLSTMCell(1, 4, 3, strategy)
    alone = cell(torch.ones(1, 1, 8, 8), 2.0)[0]
    row = cell(torch.ones(3, 1, 8, 8), torch.tensor([2.0, 1.0, 4.0]))[0][:1]
    assert alone.isfinite().all()
    torch.testing.assert_close(alone, row)  # no statistics over the batch


def test_durations_can_be_a_vector_per_channel_and_learn() -> None:
    cell = compat.DurationAwareConvLSTMCell(1, 4, 3, duration_features="channel", duration_hidden=(8, 8))
    optimiser = torch.optim.SGD(cell.parameters(), lr=0.1)
    for _ in range(2):
        h, _ = cell(torch.rand(2, 1, 8, 8), torch.tensor([0.5, 3.0]))
        optimiser.zero_grad()
        h.square().sum().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in cell.named_parameters() if "hh" not in n)


def test_wrong_use(refused) -> None:
    with refused(SpecError, "strategy"):
        compat.DurationAwareConvLSTMCell(1, 4, 3, "none")
    with refused(ShapeError, "duration"):
        compat.DurationAwareConvLSTMCell(1, 4, 3)(torch.rand(2, 1, 8, 8), torch.ones(3))
    with refused(SpecError, "peephole"):
        compat.ConvGate(1, 4, 3, peephole="channel")
    with refused(StateError, "h"):
        compat.ConvGate(1, 4, 3)(torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8))
    for wrong in ({"duration_strategy": "mlp"}, {"zoneout_h": 0.5}, {"direction": "bidirectional"}, {"xyz": 1}):
        with refused(SpecError, next(iter(wrong))):
            compat.ConvGate(1, 4, 3, **wrong)
    with refused(ShapeError, "h"):
        compat.ConvGate(1, 4, 3)(torch.rand(2, 1, 8, 8), torch.rand(2, 4, 8, 8).double())
    for state in (5, [None], [(torch.zeros(2, 4, 8, 8),)]):
        with refused(StateError, "hidden_state"):
            compat.ConvLSTM(1, 4, 3, 1)(torch.rand(5, 2, 1, 8, 8), state)
    for options in ({"bidirectional": True}, {"direction": "reverse", "stateful": True}):
        with refused(SpecError, "direction"):
            compat.ConvLSTM(1, 4, 3, 1, **options)
    with refused(SpecError, "return_all_layers"):
        compat.ConvLSTM(1, 4, 3, 1, True, True, "all")


def test_the_gate_is_the_cells() -> None:
    cell = ConvLSTMCell(2, 4, 3, stride=2, padding=1, norm="layer", activation="relu")
    gate = compat.ConvGate(2, 4, 3, stride=2, padding=1, norm="layer", activation="relu")
    gate.load_state_dict(cell.state_dict())
    x, h, c = torch.randn(3, 2, 8, 8), torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    i, f, g, o = gate(x, h)
    after = f * c + i * g
    torch.testing.assert_close(cell(x, (h, c)), (o * after.relu(), after))


@pytest.mark.parametrize("stateful", [False, True])
def test_all_layers_in_a_call_is_refused(stateful: bool) -> None:
    module = compat.ConvLSTM(1, 3, 3, 1, batch_first=True, stateful=stateful)
    with pytest.raises(SpecError, match="all_layers: expected `return_all_layers` of the constructor"):
        module(torch.rand(2, 4, 1, 8, 8), all_layers=False)


def test_initial_state_of_a_cell_takes_an_image_size_of_one_number() -> None:
    cell = ConvLSTMCell(1, 4, 3, spatial_dims=1)
    assert [tuple(part.shape) for part in cell.init_hidden(3, 5)] == [(3, 4, 5)] * 2
