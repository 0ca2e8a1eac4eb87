"""`load_state_dict` of the compat layers with the checkpoints of the code that they replace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convlstm.torch import compat

CONV = {"kernel_size": 3, "padding": 1, "dtype": torch.float64}


class OldCell(nn.Module):
    """One convolution over [x; h], gates i, f, o, g."""

    def __init__(self, inputs: int, hidden: int, name: str = "conv", bias: bool = True) -> None:
        super().__init__()
        self.name, self.hidden = name, hidden
        self.add_module(name, nn.Conv2d(inputs + hidden, 4 * hidden, bias=bias, **CONV))

    def forward(self, x, state, factor=1.0):
        h, c = state
        i, f, o, g = getattr(self, self.name)(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh() * factor
        return o.sigmoid() * c.tanh(), c


class OldStack(nn.Module):
    def __init__(self, inputs: int, hidden: list[int], bias: bool = True) -> None:
        super().__init__()
        cells = [OldCell(i, h, bias=bias) for i, h in zip([inputs, *hidden[:-1]], hidden, strict=True)]
        self.cell_list = nn.ModuleList(cells)

    def forward(self, x):
        states = []
        for cell in self.cell_list:
            state = [x.new_zeros(len(x), cell.hidden, *x.shape[-2:])] * 2
            outputs = []
            for frame in x.unbind(1):
                state = cell(frame, state)
                outputs.append(state[0])
            x = torch.stack(outputs, 1)
            states.append(state)
        return x, states


class Net(nn.Module):
    """A larger model around a ConvLSTM, and around a cell."""

    def __init__(self, layer: nn.Module, cell: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        self.inner = nn.ModuleDict({"convlstm": layer, "encoder_1_convlstm": cell})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(bias: bool = True):
    old = OldStack(2, [4, 3], bias)
    new = compat.ConvLSTM(2, [4, 3], (3, 3), 2, batch_first=True, bias=bias, return_all_layers=True).double()
    return old, new


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_stack_loads_its_old_checkpoint(bias, assign) -> None:
    old, new = pair(bias)
    state_dict = old.state_dict()
    before = set(state_dict)
    result = new.load_state_dict(state_dict, assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert set(state_dict) == before
    x = torch.randn(2, 3, 2, 6, 5, dtype=torch.float64)
    (expected, states), (outputs, found) = old(x), new(x)
    torch.testing.assert_close(outputs[-1], expected)
    torch.testing.assert_close([tuple(pair) for pair in found], [tuple(pair) for pair in states])


@pytest.mark.parametrize(
    ("old", "new", "factor"),
    [
        (OldCell(2, 3), compat.ConvLSTMCell(2, 3, (3, 3)).double(), ()),
        (OldCell(2, 3, "conv_gates"), compat.DurationAwareConvLSTMCell(2, 3, (3, 3), "linear").double(), (2.0,)),
    ],
    ids=["ndrplz", "TConvLSTM"],
)
def test_cells_load_their_old_checkpoints(old, new, factor) -> None:
    new.load_state_dict(old.state_dict())
    x, state = torch.randn(2, 2, 6, 5, dtype=torch.float64), torch.randn(2, 2, 3, 6, 5, dtype=torch.float64).unbind(0)
    torch.testing.assert_close(new(x, *factor, state), old(x, state, *factor))


def test_larger_model_loads_its_old_checkpoint() -> None:
    old_stack, new_stack = pair()
    old = Net(old_stack, OldCell(2, 3))
    new = Net(new_stack, compat.ConvLSTMCell(2, 3, (3, 3)).double())
    result = new.load_state_dict(old.state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    x = torch.randn(2, 3, 2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(new.inner["convlstm"](x)[0][-1], old.inner["convlstm"](x)[0])
    assert torch.equal(new.backbone[0].weight, old.backbone[0].weight)


def test_own_checkpoint_still_loads() -> None:
    _, one = pair()
    _, two = pair()
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_missing_and_unknown_arrays_are_reported() -> None:
    old, new = pair()
    whole = old.state_dict()
    without = {key: value for key, value in whole.items() if key != "cell_list.1.conv.bias"}
    assert new.load_state_dict(without, strict=False).missing_keys == ["bias_l1"]
    further = whole | {"cell_list.2.conv.weight": whole["cell_list.1.conv.weight"], "head.weight": torch.ones(1)}
    unexpected = new.load_state_dict(further, strict=False).unexpected_keys
    assert sorted(unexpected) == ["cell_list.2.conv.weight", "head.weight"]
    for wrong in (without, further):
        with pytest.raises(RuntimeError, match=r"bias_l1|cell_list.2.conv.weight"):
            new.load_state_dict(wrong)
    _, unbiased = pair(bias=False)
    assert unbiased.load_state_dict(whole, strict=False).unexpected_keys == [
        "cell_list.0.conv.bias",
        "cell_list.1.conv.bias",
    ]
    assert sorted(new.load_state_dict(whole | new.state_dict(), strict=False).unexpected_keys) == sorted(whole)


def test_other_shape_is_reported_under_the_old_name_alone() -> None:
    old, _ = pair()
    other = compat.ConvLSTM(3, [4, 3], (3, 3), 2).double()
    before = other.weight_ih_l0.clone()
    with pytest.raises(RuntimeError) as error:
        other.load_state_dict(old.state_dict())
    text = str(error.value)
    assert "size mismatch for cell_list.0.conv.weight" in text
    assert "(16, 6, 3, 3)" in text
    assert "(16, 7, 3, 3)" in text
    assert "Missing" not in text
    assert "Unexpected" not in text
    assert torch.equal(other.weight_ih_l0, before)


def test_duration_network_of_another_form_is_reported() -> None:
    cell = compat.DurationAwareConvLSTMCell(2, 3, (3, 3)).double()
    old = OldCell(2, 3, "conv_gates").state_dict() | {"duration_mlp.0.weight": torch.zeros(16, 1)}
    result = cell.load_state_dict(old, strict=False)
    assert result.unexpected_keys == ["duration_mlp.0.weight"]
    assert all("duration" in key for key in result.missing_keys)
