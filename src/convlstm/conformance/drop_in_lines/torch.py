"""Lines of PyTorch projects as they are written there, apart from the imports (`convlstm.conformance.drop_in`)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from convlstm.conformance.drop_in import UsageExample, UsageResult, against_reference
from convlstm.spec.types import Array
from convlstm.torch import compat
from convlstm.torch.layer import ConvLSTM
from convlstm.torch.weights import to_canonical


def duration_aware(strategy: str) -> UsageResult:
    """Run duration-aware ConvLSTM's loop with one strategy."""
    rnn_cell = compat.DurationAwareConvLSTMCell(input_dim=3, hidden_dim=64, kernel_size=(3, 3), strategy=strategy)
    _wake(rnn_cell)
    sequence_frames = torch.randn(3, 4, 3, 16, 16)
    sequence_durations = torch.rand(3, 4, 1) + 0.5
    h, c = rnn_cell.init_hidden(batch_size=4, image_size=(16, 16))
    for frame, duration in zip(sequence_frames, sequence_durations, strict=True):
        h, c = rnn_cell(frame, duration, (h, c))
    durations = _array(sequence_durations.squeeze(-1).T)
    x = _array(sequence_frames.transpose(0, 1))
    return against_reference(
        *(rnn_cell.spec, to_canonical(rnn_cell), x, [(_array(h), _array(c))]),
        shapes={"h, c": h.shape},
        durations=durations,
    )


def bidirectional() -> UsageResult:
    """Run Bidirectional-Conv-LSTM-PyTorch's example."""
    conv_lstm = ConvLSTM(
        in_channels=1,
        hidden_channels=64,
        kernel_size=3,
        padding=1,
        stride=1,
        bias=True,
        batch_first=True,
        bidirectional=True,
    )
    input_tensor = torch.randn(2, 4, 1, 16, 16)
    output, (hidden_state, cell_state) = conv_lstm(input_tensor)
    pairs = [(_array(h), _array(c)) for h, c in zip(hidden_state, cell_state, strict=True)]
    return against_reference(
        *(conv_lstm.spec, to_canonical(conv_lstm), _array(input_tensor), pairs),
        shapes={"output": output.shape, "h, c": hidden_state[-1].shape},
        output=_array(output),
    )


def gate() -> UsageResult:
    """Run Bidirectional-Conv-LSTM-PyTorch's gate module, and make a step of it."""
    conv_gate = compat.ConvGate(in_channels=1, hidden_channels=8, kernel_size=3, padding=1, stride=1, bias=True)
    x, hidden = torch.randn(2, 1, 16, 16), torch.randn(2, 8, 16, 16)
    i, f, g, o = conv_gate(x, hidden)
    c = f * torch.ones_like(f) + i * g
    states = [(_array(hidden), np.ones(hidden.shape))]
    result = [(_array(o * torch.tanh(c)), _array(c))]
    return against_reference(
        *(conv_gate.spec, to_canonical(conv_gate), _array(x)[:, None], result),
        shapes={"i, f, g, o": i.shape},
        states=states,
    )


def notebook() -> UsageResult:
    """Run ConvLSTM notebook's example."""
    x = torch.rand((32, 10, 1, 16, 16))
    convlstm = compat.ConvLSTM(1, 16, (3, 3), 1, batch_first=True, bias=True, return_all_layers=False)
    _, last_states = convlstm(x)
    h, c = last_states[0]
    result = [(_array(h), _array(c))]
    return against_reference(convlstm.spec, to_canonical(convlstm), _array(x), result, shapes={"h, c": h.shape})


def positional() -> UsageResult:
    """Run ConvLSTM notebook's docstring, as it stands and with two layers that are all returned."""
    x = torch.rand((2, 3, 64, 16, 16))
    convlstm = compat.ConvLSTM(64, 16, 3, 1, True, True, False)
    _, last_states = convlstm(x)
    assert last_states[0][0].shape == (2, 16, 16, 16)
    convlstm = compat.ConvLSTM(64, 16, 3, 2, True, True, True)
    layer_output_list, last_state_list = convlstm(x)
    pairs = [(_array(h), _array(c)) for h, c in last_state_list]
    output = layer_output_list[-1]
    return against_reference(
        *(convlstm.spec, to_canonical(convlstm), _array(x), pairs),
        shapes={"output": output.shape, "h, c": last_state_list[-1][0].shape},
        output=_array(output),
    )


def one_step() -> UsageResult:
    """Run ConvLSTM notebook's cell."""
    cell = compat.ConvLSTMCell(input_dim=1, hidden_dim=8, kernel_size=(3, 3), bias=True)
    h, c = cell.init_hidden(2, (16, 16))
    x = torch.randn(2, 1, 16, 16)
    h, c = cell(input_tensor=x, cur_state=[h, c])
    result = [(_array(h), _array(c))]
    return against_reference(cell.spec, to_canonical(cell), _array(x)[:, None], result, shapes={"h, c": h.shape})


EXAMPLES = (
    *(
        UsageExample(
            "duration-aware",
            f"h, c = rnn_cell(frame, duration, (h, c))  # {name}",
            partial(duration_aware, name),
        )
        for name in ("linear", "log", "exp", "scalar", "mlp")
    ),
    UsageExample(
        "Bidirectional-Conv-LSTM", "output, (hidden_state, cell_state) = conv_lstm(input_tensor)", bidirectional
    ),
    UsageExample(
        "Bidirectional-Conv-LSTM",
        "i, f, g, o = ConvGate(in_channels=1, hidden_channels=8, kernel_size=3)(x, h)",
        gate,
    ),
    UsageExample("notebook", "_, last_states = ConvLSTM(1, 16, (3,3), 1, batch_first=True, ...)(x)", notebook),
    UsageExample("notebook", "ConvLSTM(64, 16, 3, 2, True, True, True)(x)", positional),
    UsageExample("notebook", "h, c = cell(input_tensor=x, cur_state=[h, c])", one_step),
)
"""Every line of a PyTorch project."""


def _wake(module: torch.nn.Module) -> None:
    """Move the parameters of a duration strategy off their neutral start, so that a fault would show."""
    for name, parameter in module.named_parameters():
        if name.startswith("duration"):
            torch.nn.init.normal_(parameter, std=0.5)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()
