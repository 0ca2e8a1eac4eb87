"""The memory of a training step, computed from the spec: every large array, in the order of the engine.

A ledger adds and removes the bytes of forward pass, loss (mean square), backward pass and AdamW, and records the peak.
It ignores code, the scratch memory of oneDNN and the overhead of the allocator; see docs/inspect.md for the accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from convlstm.cost.memory_run import SINGLE, WIDTHS, Run, runs
from convlstm.cost.workload import Workload, calls
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.stack import ConvLSTMSpec
from convlstm.weights.canonical import Spec, canonical_shapes, parameter_count

_KERNEL_FORMS = 2  # copies of a kernel in use: channels last, and in the layout of oneDNN
_KERNEL_GRADIENT_FORMS = 4  # the kernel channels last, its gradient as oneDNN has it, as asked for, and converted
_SQUARE_GRADIENT_FORMS = 4  # the gradient of a mean square: that of the mean, and three factors and products
_STEP_CELLS = 5  # arrays of one step in the backward pass: the gradient of c, and four products of gates


class Ledger:
    """Bytes in use, and their peak.

    Example:
        >>> ledger = Ledger()
        >>> ledger.take(3)
        >>> ledger.touch(4)
        >>> ledger.held, ledger.peak
        (3, 7)
    """

    def __init__(self) -> None:
        self.held = self.peak = 0

    def take(self, *sizes: int) -> None:
        """Add these bytes."""
        self.held += sum(sizes)
        self.peak = max(self.peak, self.held)

    def free(self, *sizes: int) -> None:
        """Remove these bytes."""
        self.held -= sum(sizes)

    def touch(self, *sizes: int) -> None:
        """Add these bytes and remove them at once."""
        self.take(*sizes)
        self.free(*sizes)


def training_memory(spec: Spec, workload: Workload) -> int:
    """Return the peak memory of a training step after the first, with frames, weights and moments.

    Args:
        spec: A layer stack or a forecaster.
        workload: The input.

    Returns:
        Bytes.

    Example:
        >>> stack = ConvLSTMSpec(in_channels=64, hidden_channels=64, kernel_size=3)
        >>> training_memory(stack, Workload(shape=(10, 64, 64, 64), batch=2)) // 10**6
        261
    """
    ledger, weights = Ledger(), SINGLE * parameter_count(spec)
    ledger.take(SINGLE * workload.batch * prod(workload.shape))
    ledger.take(weights, weights, 2 * weights)  # the weights, the gradients of the previous step, the moments of AdamW
    if isinstance(spec, ForecasterSpec):
        _forecaster_step(ledger, spec, workload)
    else:
        _layer_step(ledger, spec, workload)
    sizes = [SINGLE * prod(shape) for shape in canonical_shapes(spec).values()]
    ledger.touch(max(before + 2 * size for before, size in pairwise([0, *sizes])))  # AdamW, array by array
    return ledger.peak


def _layer_step(ledger: Ledger, spec: ConvLSTMSpec, workload: Workload) -> None:
    layers = runs(calls(spec, workload)[0], workload.batch, WIDTHS[workload.precision])
    ledger.take(_room(layers))
    _stack_forward(ledger, layers)
    output = _joined(layers[-1])
    single = output // layers[-1][0].width * SINGLE
    converted = single if single > output else 0
    own = 0 if len(layers[-1]) > 1 or layers[-1][0].fused else output
    ledger.take(converted, own)
    _mean_square(ledger, single, parameter_count(spec))
    ledger.free(converted, single, own)
    ledger.take(output)
    _stack_backward(ledger, layers, output)


def _forecaster_step(ledger: Ledger, spec: ForecasterSpec, workload: Workload) -> None:
    width = WIDTHS[workload.precision]
    ledger.take(SINGLE * workload.batch * prod(workload.shape))  # folded into patches
    encoder, second = (runs(call, workload.batch, width) for call in calls(spec, workload))
    future = workload.batch * workload.horizon * spec.frame_channels * prod(workload.size) * width
    count = parameter_count(spec)
    ledger.take(_room([*encoder, *second]))
    _stack_forward(ledger, encoder)
    if spec.rollout == "feedback":
        for _ in range(workload.horizon - 1):
            ledger.take(second[0][0].frames)
            _stack_forward(ledger, second)
        seen = encoder[-1][0].h  # the state of the last forecast, which the head keeps; the others are a run's start
        activated = 0 if spec.output_activation == "identity" else future  # each by itself, before they are joined
        ledger.take(future, seen, activated)
        _mean_square(ledger, future // width * SINGLE, count)
        ledger.free(seen, activated)
        _feedback_backward(ledger, encoder, second, workload.horizon - 1)
        return
    _stack_forward(ledger, second)
    hidden = sum(run.outputs for directions in second for run in directions)
    ledger.take(hidden)
    ledger.touch(hidden, hidden, future)  # joined, in one batch (kept), and in oneDNN's order
    ledger.take(future)
    _mean_square(ledger, future // width * SINGLE, count)
    ledger.touch(hidden, hidden, future)  # the gradient, and the hidden states in oneDNN's order
    ledger.free(future)
    _stack_backward(ledger, second, 0)
    ledger.free(hidden)
    _stack_backward(ledger, encoder, 0)


def _feedback_backward(
    ledger: Ledger, encoder: Sequence[Sequence[Run]], second: Sequence[Sequence[Run]], repeats: int
) -> None:
    for number in range(repeats):
        _stack_backward(ledger, second, 0, again=number > 0)
        ledger.free(second[0][0].frames)
    _stack_backward(ledger, encoder, 0, again=repeats > 0)


def _room(layers: Sequence[Sequence[Run]]) -> int:
    """Return the bytes of the buffer for Winograd products, which all layers and calls share."""
    return max((sum(run.near(run.together)) for directions in layers for run in directions if run.winograd), default=0)


def _mean_square(ledger: Ledger, output: int, parameters: int) -> None:
    """Add the loss of an output and its gradient, which stays; the old gradients are freed in between."""
    ledger.touch(output)
    ledger.free(SINGLE * parameters)
    ledger.touch(_SQUARE_GRADIENT_FORMS * output)
    ledger.take(output)


def _stack_forward(ledger: Ledger, layers: Sequence[Sequence[Run]]) -> None:
    for directions in layers:
        for run in directions:
            _forward(ledger, run)
        ledger.take(_merged(directions))
        ledger.free(directions[0].outputs if len(directions) > 1 and directions[0].spec.merge != "mul" else 0)
    ledger.free(sum(run.outputs for directions in layers for run in directions if not run.fused))


def _stack_backward(ledger: Ledger, layers: Sequence[Sequence[Run]], gradient: int, *, again: bool = False) -> None:
    """Add the backward pass of a stack; `gradient` is that of its output, which is freed like the merged output."""
    for directions in reversed(layers):
        ledger.free(_merged(directions))
        for run in reversed(directions):
            _backward(ledger, run, again=again)
        ledger.free(gradient)
        first = directions[0]
        gradient = first.frames if first.input_gradient else 0
        ledger.free(gradient * (len(directions) - 1))
    ledger.free(gradient)


def _merged(directions: Sequence[Run]) -> int:
    """Return the bytes of the merged output of two directions; 0 for one direction."""
    return _joined(directions) if len(directions) > 1 else 0


def _joined(directions: Sequence[Run]) -> int:
    """Return the bytes of a layer's output."""
    both = len(directions) > 1 and directions[0].spec.merge in ("concat", "separate")
    return directions[0].outputs * (2 if both else 1)


def _forward(ledger: Ledger, run: Run) -> None:
    if not run.fused:
        ledger.take(run.kept)
        ledger.touch(run.gates, 2 * run.outputs)  # W_ih ∗ x, and h before and after they are stacked
        ledger.take(run.outputs)  # which no derivative needs, but the stack holds until it is through
        return
    states = (run.steps + 1) * (run.h + run.c)
    ledger.take(run.kept - run.gates - states)
    ledger.take(run.gates, states)
    frames = 0 if run.joint else run.making_ready * run.steps_per_chunk // run.steps
    if run.winograd:
        kernels = run.convolved_together  # as one, row by row, and at the points
        forms = 2 * kernels + run.at_points(kernels) + (0 if run.joint else _KERNEL_FORMS * run.kernel_ih)
        ledger.touch(forms, run.scratch, frames)
        return
    ledger.touch(_KERNEL_FORMS * (run.kernel_hh + run.kernel_ih), run.scratch, frames)


def _backward(ledger: Ledger, run: Run, *, again: bool) -> None:
    """Add the backward pass of one run: free its kept arrays, and add the gradients of input and weights.

    With `again` the weights already have a gradient, to which this one is added.
    """
    if run.fused:
        _fused_backward(ledger, run)
    else:
        _plain_backward(ledger, run)
    ledger.take(run.frames if run.input_gradient else 0)
    if again:
        ledger.touch(run.parameters)
    else:
        ledger.take(run.parameters)


def _fused_backward(ledger: Ledger, run: Run) -> None:
    if run.winograd:
        _winograd_backward(ledger, run)
        return
    steps = (run.kernel_hh, run.h, run.c)  # W_hh turned round, and the gradients of h and c
    ledger.take(*steps)
    ledger.touch(run.kernel_hh, run.scratch)
    gradient = _input_gradient(ledger, run) if run.layer.in_channels else 0
    ledger.take(gradient)
    copies = run.outputs if run.uneven_states else 0
    copies += run.gates + run.outputs if len(run.size) == 1 else 0
    ledger.touch(_KERNEL_GRADIENT_FORMS * run.kernel_hh, copies)
    ledger.touch(run.kernel_hh, run.steps * run.c if run.spec.peephole == "channel" else 0)
    ledger.free(*steps, gradient, run.kept)


def _winograd_backward(ledger: Ledger, run: Run) -> None:
    held = (run.at_points(run.kernel_hh), run.h, run.c)  # W_hh turned round, and the gradients of h and c
    ledger.take(*held)
    ledger.touch(run.scratch)
    gradient = run.frames if run.joint and run.input_gradient else 0
    ordered = run.making_ready * run.together // run.steps if run.joint else 0
    ledger.touch(gradient, 2 * run.at_points(run.convolved_together), ordered)
    ledger.take(run.kernel_hh)
    if run.layer.in_channels:
        gradient = gradient + run.kernel_ih if run.joint else _input_gradient(ledger, run)
    ledger.take(gradient)
    ledger.touch(run.steps * run.c if run.spec.peephole == "channel" else 0)
    ledger.free(*held, run.kernel_hh, gradient, run.kept)


def _input_gradient(ledger: Ledger, run: Run) -> int:
    """Add the gradients of x and W_ih and remove them; return their bytes."""
    ordered = run.gates + max(run.frames, run.gates if len(run.size) > 1 else 0) if run.channels_first else 0
    steps_at_once = run.steps_per_chunk if run.made_ready else run.steps
    making, ready, ordered = (size * steps_at_once // run.steps for size in (run.making_ready, run.ready, ordered))
    of_input = max(ready, run.frames) if run.input_gradient else 0
    ledger.touch(making)
    ledger.touch(ready, of_input, _KERNEL_GRADIENT_FORMS * run.kernel_ih, ordered)
    again = run.frames if run.input_gradient and (run.uneven or steps_at_once < run.steps) else 0
    ledger.touch(ready, of_input, run.kernel_ih, again)  # cropped, or joined from its parts
    return run.kernel_ih + (run.frames if run.input_gradient else 0)


def _plain_backward(ledger: Ledger, run: Run) -> None:
    # the gradient of each step's slice of W_ih ∗ x fills an array for all steps, next to the partial sum
    ledger.touch(max(2 * run.gates - 2 * run.generic_step, run.gates), _STEP_CELLS * run.c)
    ledger.free(run.kept)
    ledger.touch(2 * run.gates, 2 * run.padded_frames, run.frames if run.input_gradient else 0)
