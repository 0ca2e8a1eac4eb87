"""The fused implementation in TensorFlow outside XLA: separate gates, no copy between steps, its own backward pass.

It computes the standard cell (`LayerSpec.is_standard_cell`) without peepholes, masks, durations or dilation. Under XLA
the generic loop is faster, whose kernel gradient is one matrix product per tap; elsewhere TensorFlow's own kernels are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from convlstm.engine.tensorflow.convolution import Convolution, DirectGates
from convlstm.engine.tensorflow.padding import input_widths, pad, sizes
from convlstm.engine.tensorflow.shapes import unstacked
from convlstm.engine.tensorflow.winograd import WinogradGates, is_faster
from convlstm.spec.layer import LayerSpec

Tensor = Any
Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]


def serves(layer: LayerSpec) -> bool:
    """Return whether this implementation can compute the layer now."""
    spec = layer.stack
    strides = {1, *layer.stride} if spec.spatial_dims == 1 else set(layer.stride)
    is_misread = layer.in_channels == 1 and len(strides) > 1  # see `convolution.convolve`
    return (
        layer.is_standard_cell
        and layer.in_channels > 0
        and spec.peephole == "none"
        and set(layer.dilation) == {1}
        and layer.has_dense_recurrence
        and not is_misread
        and not _under_xla()
    )


def has_correct_kernels(layer: LayerSpec, size: Sequence[Any], dtype: Any) -> bool:
    """Return whether TensorFlow's own kernels are right for frames of this size in this type (TensorFlow 2.21).

    In float64, `conv3d` with SAME padding and a stride above the kernel is wrong. On processors with AMX, where oneDNN
    computes in bfloat16, two kinds of convolution are wrong: those with a stride above 1 and one output column, and
    those that pad frames of depth 1. In bfloat16 a size that is only known when the graph runs counts as wrong.
    """
    has_depth = len(size) == 3
    skips_points = any(s > k for s, k in zip(layer.stride, layer.kernel_size, strict=True))
    if dtype == tf.float64 and has_depth and layer.padding == "same" and skips_points:
        return False
    if any(not isinstance(n, int) for n in size):
        return dtype != tf.bfloat16 or (not has_depth and layer.stride[-1] == 1)
    grid = layer.grid(tuple(size))
    if layer.stride[-1] > 1 and grid[-1] == 1:
        return False
    return not (dtype == tf.bfloat16 and has_depth and 1 in (size[0], grid[0]))


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor,
    state: State,
    *,
    steps: Any,
    reverse: bool,
    zero_initial_state: bool,
    training: bool,
) -> tuple[Tensor, State]:
    """Run a layer for which `serves` holds, with x, both kernels and h in the type to compute in.

    Only in `training` is the backward pass that of this module: a saved graph cannot hold a custom one.
    """
    spec, hidden = layer.stack, layer.hidden_channels
    if not isinstance(layer.padding, str):
        time, batch, *space = sizes(x)
        flat = pad(tf.reshape(x, (time * batch, *space)), input_widths(layer, tuple(space[:-1])), spec.boundary)
        x = tf.reshape(flat, (time, batch, *sizes(flat)[1:]))
    bias = weights["bias"] if spec.bias else tf.zeros((4 * hidden,), state[1].dtype)
    padding = "SAME" if layer.padding == "same" else "VALID"
    is_1d = spec.spatial_dims == 1
    stride, arrays = tuple(layer.stride), [x, weights["weight_ih"], weights["weight_hh"], *state]
    if is_1d:  # TensorFlow's own convolutions have two dimensions or more
        stride = (1, *stride)
        arrays = [tf.expand_dims(a, axis) for a, axis in zip(arrays, (2, 0, 0, 1, 1), strict=True)]
    x, w_ih, w_hh, h, c = arrays
    input_convolution = _convolution(Convolution(stride, padding, sizes(x)[1:], tuple(w_ih.shape)), x.dtype)
    recurrent = Convolution((1,) * len(stride), "SAME", sizes(h), tuple(w_hh.shape))
    recurrent_convolution = _convolution(recurrent, h.dtype)
    skip_first_h = zero_initial_state and isinstance(steps, int)
    call = _Call(input_convolution, recurrent_convolution, steps, reverse, skip_first_h, training)
    arguments = (x, w_ih, w_hh, bias, h, c)
    if training:
        outputs, h, c = tf.custom_gradient(call.run)(*arguments)
    else:
        (outputs, h, c), _ = call.run(*arguments)
    if is_1d:
        outputs, h, c = tf.squeeze(outputs, 2), tf.squeeze(h, 1), tf.squeeze(c, 1)
    return outputs, (h, c)


def _convolution(convolution: Convolution, dtype: tf.DType) -> DirectGates | WinogradGates:
    """Return the faster implementation of a convolution of four gates."""
    return WinogradGates(convolution) if is_faster(convolution, dtype) else DirectGates(convolution)


@dataclass(frozen=True)
class _Call:
    """One call: its convolutions and the order of its steps; `tf.custom_gradient` takes the results of `run`.

    The methods are long because the body of a loop and its variables belong together. Everything saved for the
    backward pass is an ordinary tensor of the graph, so that it can be differentiated again. `skip_first_h` says that
    the initial state is zero and the first step, before the loop, does not convolve it.
    """

    input_convolution: DirectGates | WinogradGates
    recurrent_convolution: DirectGates | WinogradGates
    steps: Any
    reverse: bool
    skip_first_h: bool
    saves: bool

    def run(self, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, h: Tensor, c: Tensor) -> Any:
        """Return (outputs, h, c) and the function that turns their gradients into those of the arguments."""
        forward = self._forward(x, w_ih, w_hh, tf.cast(bias, c.dtype))
        outputs = tf.TensorArray(h.dtype, size=self.steps, element_shape=h.shape)
        saved = [self._array(c) for _ in range(6 if self.saves else 0)]
        arguments, h_initial, first = (x, w_ih, w_hh, h), h, tf.constant(0)
        if self.skip_first_h:
            h, c, gates = forward(0, None, c)
            outputs = outputs.write(self._time_index(0), h)
            saved = _written(saved, 0, gates if self.saves else ())
            first = tf.constant(1)

        def body(n: Tensor, h: Tensor, c: Tensor, outputs: Any, saved: Any) -> tuple[Any, ...]:
            h_after, c_after, gates = forward(n, h, c)
            h_after.set_shape(h.shape)
            c_after.set_shape(c.shape)
            outputs = outputs.write(self._time_index(n), h_after)
            return n + 1, h_after, c_after, outputs, _written(saved, n, gates if self.saves else ())

        _, h, c, outputs, saved = tf.while_loop(
            lambda n, *_: n < self.steps, body, (first, h, c, outputs, saved), maximum_iterations=self.steps
        )
        outputs, eager = outputs.stack(), tf.executing_eagerly()

        def gradient(d_outputs: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, ...]:
            before = outputs if self.skip_first_h else self._shifted(outputs, h_initial)
            readable = saved
            if eager != tf.executing_eagerly():
                # a Jacobian builds a graph around the gradient of an eager call, whose arrays no tensor can index
                readable = [unstacked(array.stack(), array.size()) for array in saved]
            return self._gradients(arguments, before, readable, (d_outputs, dh, dc), bias.dtype)

        return (outputs, h, c), gradient

    def _forward(self, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Callable[..., Any]:
        """Return the function of one step: h and c after it, and the arrays that its backward pass needs."""
        input_filters = self.input_convolution.filters(w_ih)
        recurrent_filters = self.recurrent_convolution.filters(w_hh)
        biases = tf.split(bias, 4)

        def forward(n: Any, h: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
            convolved = self.input_convolution.gates(x[self._time_index(n)], input_filters)
            z = [tf.nn.bias_add(tf.cast(gate, c.dtype), b) for gate, b in zip(convolved, biases, strict=True)]
            if h is not None:
                recurrent = self.recurrent_convolution.gates(h, recurrent_filters)
                z = [z_gate + tf.cast(gate, c.dtype) for z_gate, gate in zip(z, recurrent, strict=True)]
            i, f, g, o = tf.sigmoid(z[0]), tf.sigmoid(z[1]), tf.tanh(z[2]), tf.sigmoid(z[3])
            c_after = i * g if h is None else f * c + i * g
            tanh_c = tf.tanh(c_after)
            return tf.cast(o * tanh_c, x.dtype), c_after, (i, f, g, o, c, tanh_c)

        return forward

    def _gradients(
        self,
        arguments: Sequence[Tensor],
        before: Tensor,
        saved: Any,
        gradients: Sequence[Tensor],
        bias_type: Any,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of x, both kernels, the bias and the initial state."""
        x, w_ih, w_hh, h = arguments
        d_outputs, dh_final, dc_final = gradients
        wide = dc_final.dtype

        def gate_gradients(n: Any, dh: Tensor, dc: Tensor) -> tuple[list[Tensor], Tensor]:
            dh = dh + tf.cast(d_outputs[self._time_index(n)], wide)
            return _gate_gradients([array.read(n) for array in saved], dh, dc)

        def add_input_gradients(
            n: Any, dz: Tensor, dz_cast: list[Tensor], dw_ih: Tensor, d_bias: Tensor
        ) -> tuple[Tensor, Tensor]:
            frame = x[self._time_index(n)]
            dw_ih += tf.cast(self.input_convolution.kernel_gradient(frame, dz_cast), wide)
            return dw_ih, d_bias + tf.reduce_sum(dz, tuple(range(len(dz.shape) - 1)))

        def body(n: Tensor, dh: Tensor, dc: Tensor, dz_arrays: Any, dw_hh: Tensor, *sums: Any) -> tuple[Any, ...]:
            dz_gates, dc_before = gate_gradients(n, dh, dc)
            dz = tf.concat(dz_gates, axis=-1)
            dz_cast = [tf.cast(dz_gate, x.dtype) for dz_gate in dz_gates]
            h_before = before[self._index_before(n)]
            dw_hh += tf.cast(self.recurrent_convolution.kernel_gradient(h_before, dz_cast), wide)
            dh_before = tf.cast(self.recurrent_convolution.data_gradient(dz_cast, recurrent_filters), wide)
            dh_before.set_shape(dh.shape)
            dc_before.set_shape(dc.shape)
            dz_arrays = _written(dz_arrays, n, dz_cast)
            return n - 1, dh_before, dc_before, dz_arrays, dw_hh, *add_input_gradients(n, dz, dz_cast, *sums)

        last = 1 if self.skip_first_h else 0
        recurrent_filters = self.recurrent_convolution.filters(w_hh)
        sum_shapes = self.recurrent_convolution.sum_shape, self.input_convolution.sum_shape, (w_ih.shape[-1],)
        zeros = [tf.zeros(shape, wide) for shape in sum_shapes]
        dz_arrays = [self._array(h) for _ in range(4)]
        start = (self.steps - 1, tf.cast(dh_final, wide), dc_final, dz_arrays, *zeros)
        _, dh, dc, dz_arrays, dw_hh, dw_ih, d_bias = tf.while_loop(
            lambda n, *_: n >= last, body, start, maximum_iterations=self.steps
        )
        if self.skip_first_h:
            dz_gates, dc = gate_gradients(0, dh, dc)
            dz_cast = [tf.cast(dz_gate, x.dtype) for dz_gate in dz_gates]
            dw_ih, d_bias = add_input_gradients(0, tf.concat(dz_gates, axis=-1), dz_cast, dw_ih, d_bias)
            dz_arrays = _written(dz_arrays, 0, dz_cast)
        return (
            self._frame_gradients(x, w_ih, dz_arrays),
            tf.cast(self.input_convolution.kernel_of_sum(dw_ih), w_ih.dtype),
            tf.cast(self.recurrent_convolution.kernel_of_sum(dw_hh), w_hh.dtype),
            tf.cast(d_bias, bias_type),
            tf.cast(dh, h.dtype),
            dc,
        )

    def _frame_gradients(self, x: Tensor, w_ih: Tensor, dz_arrays: Sequence[Any]) -> Tensor:
        """Return the gradient of x, in a separate loop: a graph that does not need it leaves it out."""
        dx = tf.TensorArray(x.dtype, size=self.steps, element_shape=x.shape[1:])
        filters = self.input_convolution.filters(w_ih)

        def body(n: Tensor, dx: Any) -> tuple[Tensor, Any]:
            dz_gates = [array.read(n) for array in dz_arrays]
            dx_t = self.input_convolution.data_gradient(dz_gates, filters)
            return n + 1, dx.write(self._time_index(n), dx_t)

        start = (tf.constant(0), dx)
        _, dx = tf.while_loop(lambda n, _: n < self.steps, body, start, maximum_iterations=self.steps)
        return dx.stack()

    def _time_index(self, n: Any) -> Any:
        """Return the time index of the n-th step of the recurrence."""
        return self.steps - 1 - n if self.reverse else n

    def _index_before(self, n: Any) -> Any:
        """Return the index of the state before step n in `before`, which is shifted unless the first is skipped."""
        return self._time_index(n - 1 if self.skip_first_h else n)

    def _shifted(self, outputs: Tensor, h: Tensor) -> Tensor:
        """Return the hidden state before each step."""
        parts = [outputs[1:], h[None]] if self.reverse else [h[None], outputs[:-1]]
        return tf.concat(parts, axis=0)[: self.steps]

    def _array(self, like: Tensor) -> Any:
        return tf.TensorArray(like.dtype, size=self.steps, element_shape=like.shape, clear_after_read=False)


def _gate_gradients(saved: Sequence[Tensor], dh: Tensor, dc: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of z, gate by gate, and of c before the step."""
    i, f, g, o, c, tanh_c = saved
    dc = dc + tf.raw_ops.TanhGrad(y=tanh_c, dy=dh * o)
    dz_gates = [
        tf.raw_ops.SigmoidGrad(y=i, dy=dc * g),
        tf.raw_ops.SigmoidGrad(y=f, dy=dc * c),
        tf.raw_ops.TanhGrad(y=g, dy=dc * i),
        tf.raw_ops.SigmoidGrad(y=o, dy=dh * tanh_c),
    ]
    return dz_gates, dc * f


def _written(arrays: Sequence[Any], n: Any, values: Sequence[Tensor]) -> list[Any]:
    return [array.write(n, value) for array, value in zip(arrays, values, strict=True)]


def _under_xla() -> bool:
    """Return whether XLA compiles the graph that is being built; true where TensorFlow does not tell."""
    try:
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:
        return True
    return not tf.executing_eagerly() and bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
