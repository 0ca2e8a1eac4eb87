"""The quick path in TensorFlow outside XLA: gates apart, no copy between steps, and its own backward pass.

It serves the plain cell (tanh, sigmoid; no peephole, norm, zoneout, mask, duration, dilation or groups). XLA takes the
ordinary loop, whose gradient of a kernel is one matrix product per tap; TensorFlow's own kernels are quicker here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from convlstm.engine.tensorflow.convolution import Convolution
from convlstm.engine.tensorflow.padding import input_widths, pad, sizes
from convlstm.engine.tensorflow.shapes import unstacked
from convlstm.spec.layer import LayerSpec

Tensor = Any
Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]


def serves(layer: LayerSpec) -> bool:
    """Return whether this path computes the layer, here and now."""
    spec = layer.stack
    strides = {1, *layer.stride} if spec.spatial_dims == 1 else set(layer.stride)
    is_misread = layer.in_channels == 1 and len(strides) > 1  # see `tensorflow_convolution.convolve`
    return (
        layer.is_standard_cell
        and layer.in_channels > 0
        and spec.peephole == "none"
        and set(layer.dilation) == {1}
        and not is_misread
        and not _under_xla()
    )


def is_right(layer: LayerSpec, size: Sequence[Any], dtype: Any) -> bool:
    """Return whether TensorFlow's own kernels are right for frames of this size in this type (TensorFlow 2.21).

    In float64, `conv3d` with SAME padding and a stride above the kernel is wrong. In bfloat16 on processors with AMX,
    so are convolutions with one output column and a stride above 1 (`tensorflow_convolution.convolve`), and those of
    frames of depth 1 that pad the depth themselves. A size that is not known yet counts as one of these.

    Args:
        layer: A layer that this path serves.
        size: Spatial size of its frames; a tensor where it is only known when the graph runs.
        dtype: Type in which it computes.

    Returns:
        False where another form must be taken.
    """
    has_depth = len(size) == 3
    if dtype == tf.float64:
        wide_strides = any(s > k for s, k in zip(layer.stride, layer.kernel_size, strict=True))
        return not (has_depth and layer.padding == "same" and wide_strides)
    if dtype != tf.bfloat16:
        return True
    if any(not isinstance(n, int) for n in size):
        return not has_depth and layer.stride[-1] == 1
    grid = layer.grid(tuple(size))
    is_flat = has_depth and 1 in (size[0], grid[0])
    return not is_flat and (layer.stride[-1] == 1 or grid[-1] > 1)


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor,
    state: State,
    *,
    steps: Any,
    reverse: bool,
    from_rest: bool,
    training: bool,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a sequence.

    Args:
        layer: A layer that this path serves.
        weights: Its arrays, the kernels in the type to compute in.
        x: Frames, time first (time, batch, *space, in_channels), in that type.
        state: Initial h in that type and c in at least float32, each (batch, *grid, hidden_channels).
        steps: Number of steps; a tensor where it is only known when the graph runs.
        reverse: Run from the last step to the first; outputs still stand in input order.
        from_rest: Whether the state is zero, which the first step need not convolve.
        training: Whether a gradient is to follow: its own then, which a saved graph could not hold, else TensorFlow's.

    Returns:
        Outputs, time first (time, batch, *grid, hidden_channels), and the final (h, c).
    """
    spec, hidden = layer.stack, layer.hidden_channels
    if not isinstance(layer.padding, str):
        time, batch, *space = sizes(x)
        flat = pad(tf.reshape(x, (time * batch, *space)), input_widths(layer, tuple(space[:-1])), spec.boundary)
        x = tf.reshape(flat, (time, batch, *sizes(flat)[1:]))
    bias = weights["bias"] if spec.bias else tf.zeros((4 * hidden,), state[1].dtype)
    padding = "SAME" if layer.padding == "same" else "VALID"
    is_line = spec.spatial_dims == 1
    stride, arrays = tuple(layer.stride), [x, weights["weight_ih"], weights["weight_hh"], *state]
    if is_line:  # TensorFlow's convolutions start at two dimensions
        stride = (1, *stride)
        arrays = [tf.expand_dims(a, axis) for a, axis in zip(arrays, (2, 0, 0, 1, 1), strict=True)]
    x, w_ih, w_hh, h, c = arrays
    outer = Convolution(stride, padding, sizes(x)[1:], tuple(w_ih.shape))
    inner = Convolution((1,) * len(stride), "SAME", sizes(h), tuple(w_hh.shape))
    call = _Run(outer, inner, steps, reverse, from_rest and isinstance(steps, int), training)
    given = (x, w_ih, w_hh, bias, h, c)
    outputs, h, c = tf.custom_gradient(call.run)(*given) if training else call.run(*given)[0]
    if is_line:
        outputs, h, c = tf.squeeze(outputs, 2), tf.squeeze(h, 1), tf.squeeze(c, 1)
    return outputs, (h, c)


@dataclass(frozen=True)
class _Run:
    """One call: its convolutions and the order of its steps; what it returns goes to `tf.custom_gradient`.

    Its methods are long because a loop's body and its state belong beside each other. Everything kept for the backward
    pass is an ordinary tensor of the graph, so that it can be differentiated again.
    """

    outer: Convolution
    inner: Convolution
    steps: Any
    reverse: bool
    peeled: bool
    keeps: bool

    def run(self, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, h: Tensor, c: Tensor) -> Any:
        """Return (outputs, h, c) and the function that turns their gradients into those of the arguments."""
        advance = self._advance(x, w_ih, w_hh, tf.cast(bias, c.dtype))
        outputs = tf.TensorArray(h.dtype, size=self.steps, element_shape=h.shape)
        kept = [self._array(c) for _ in range(6 if self.keeps else 0)]
        arguments, first, start = (x, w_ih, w_hh, h), h, tf.constant(0)
        if self.peeled:
            h, c, now = advance(0, None, c)
            outputs, kept, start = (
                outputs.write(self._at(0), h),
                _written(kept, 0, now if self.keeps else ()),
                tf.constant(1),
            )

        def body(n: Tensor, h: Tensor, c: Tensor, outputs: Any, kept: Any) -> tuple[Any, ...]:
            h_after, c_after, now = advance(n, h, c)
            h_after.set_shape(h.shape)
            c_after.set_shape(c.shape)
            return (
                n + 1,
                h_after,
                c_after,
                outputs.write(self._at(n), h_after),
                _written(kept, n, now if self.keeps else ()),
            )

        _, h, c, outputs, kept = tf.while_loop(
            lambda n, *_: n < self.steps, body, (start, h, c, outputs, kept), maximum_iterations=self.steps
        )
        outputs, eager = outputs.stack(), tf.executing_eagerly()

        def gradient(of_outputs: Tensor, of_h: Tensor, of_c: Tensor) -> tuple[Tensor, ...]:
            before = outputs if self.peeled else self._shifted(outputs, first)
            # a Jacobian builds a graph around the gradient of an eager call, whose arrays no tensor can index
            read = (
                kept if eager == tf.executing_eagerly() else [unstacked(array.stack(), array.size()) for array in kept]
            )
            return self._gradients(arguments, before, read, (of_outputs, of_h, of_c), bias.dtype)

        return (outputs, h, c), gradient

    def _advance(self, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Callable[..., Any]:
        """Return the step: h and c after it, and what its backward pass needs."""
        inputs, recurrent, biases = (tf.split(a, 4, axis=-1) for a in (w_ih, w_hh, bias))

        def advance(n: Any, h: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
            frame, z = x[self._at(n)], []
            for gate in range(4):
                of_x = tf.nn.bias_add(tf.cast(self.outer(frame, inputs[gate]), c.dtype), biases[gate])
                z.append(of_x if h is None else of_x + tf.cast(self.inner(h, recurrent[gate]), c.dtype))
            i, f, g, o = tf.sigmoid(z[0]), tf.sigmoid(z[1]), tf.tanh(z[2]), tf.sigmoid(z[3])
            after = i * g if h is None else f * c + i * g
            activated = tf.tanh(after)
            return tf.cast(o * activated, x.dtype), after, (i, f, g, o, c, activated)

        return advance

    def _gradients(
        self, arguments: Sequence[Tensor], before: Tensor, kept: Any, of: Sequence[Tensor], bias_type: Any
    ) -> tuple[Tensor, ...]:
        """Return the gradients of x, both kernels, the bias and the initial state."""
        x, w_ih, w_hh, h = arguments
        of_outputs, of_h, of_c = of
        wide = of_c.dtype

        def retreat(n: Any, dh: Tensor, dc: Tensor) -> tuple[list[Tensor], Tensor]:
            i, f, g, o, c, activated = (array.read(n) for array in kept)
            dh = dh + tf.cast(of_outputs[self._at(n)], wide)
            dc = dc + tf.raw_ops.TanhGrad(y=activated, dy=dh * o)
            return [
                tf.raw_ops.SigmoidGrad(y=i, dy=dc * g),
                tf.raw_ops.SigmoidGrad(y=f, dy=dc * c),
                tf.raw_ops.TanhGrad(y=g, dy=dc * i),
                tf.raw_ops.SigmoidGrad(y=o, dy=dh * activated),
            ], dc * f

        def of_input(n: Any, dz: Tensor, of_w: Tensor, of_bias: Tensor) -> tuple[Tensor, Tensor]:
            of_w += tf.cast(self.outer.of_kernel(x[self._at(n)], tf.cast(dz, x.dtype)), wide)
            return of_w, of_bias + tf.reduce_sum(dz, tuple(range(len(dz.shape) - 1)))

        def body(n: Tensor, dh: Tensor, dc: Tensor, of_z: Any, of_w_hh: Tensor, *sums: Any) -> tuple[Any, ...]:
            by_gate, dc_before = retreat(n, dh, dc)
            dz, low = tf.concat(by_gate, axis=-1), [tf.cast(z, x.dtype) for z in by_gate]
            before_n = before[self._before(n)]
            of_w_hh += tf.cast(self.inner.of_kernel(before_n, tf.concat(low, axis=-1)), wide)
            dh_before = tf.cast(_of_data(self.inner, low, recurrent), wide)
            dh_before.set_shape(dh.shape)
            dc_before.set_shape(dc.shape)
            return n - 1, dh_before, dc_before, _written(of_z, n, low), of_w_hh, *of_input(n, dz, *sums)

        last, recurrent = 1 if self.peeled else 0, tf.split(w_hh, 4, axis=-1)
        zeros = [tf.zeros(shape, wide) for shape in (w_hh.shape, w_ih.shape, (w_ih.shape[-1],))]
        start = (self.steps - 1, tf.cast(of_h, wide), of_c, [self._array(h) for _ in recurrent], *zeros)
        _, dh, dc, of_z, of_w_hh, of_w_ih, of_bias = tf.while_loop(
            lambda n, *_: n >= last, body, start, maximum_iterations=self.steps
        )
        if self.peeled:
            by_gate, dc = retreat(0, dh, dc)
            of_w_ih, of_bias = of_input(0, tf.concat(by_gate, axis=-1), of_w_ih, of_bias)
            of_z = _written(of_z, 0, [tf.cast(z, x.dtype) for z in by_gate])
        return (
            self._of_frames(x, w_ih, of_z),
            tf.cast(of_w_ih, w_ih.dtype),
            tf.cast(of_w_hh, w_hh.dtype),
            tf.cast(of_bias, bias_type),
            tf.cast(dh, h.dtype),
            dc,
        )

    def _of_frames(self, x: Tensor, w_ih: Tensor, of_z: Sequence[Any]) -> Tensor:
        """Return the gradient of x, in a loop of its own: a graph that does not ask for it leaves it out."""
        frames, kernels = (
            tf.TensorArray(x.dtype, size=self.steps, element_shape=x.shape[1:]),
            tf.split(w_ih, 4, axis=-1),
        )

        def body(n: Tensor, frames: Any) -> tuple[Tensor, Any]:
            by_gate = [array.read(n) for array in of_z]
            return n + 1, frames.write(self._at(n), _of_data(self.outer, by_gate, kernels))

        start = (tf.constant(0), frames)
        _, frames = tf.while_loop(lambda n, _: n < self.steps, body, start, maximum_iterations=self.steps)
        return frames.stack()

    def _at(self, n: Any) -> Any:
        """Return where step n stands in time."""
        return self.steps - 1 - n if self.reverse else n

    def _before(self, n: Any) -> Any:
        """Return where the state before step n stands in `before`: shifted already, unless the first is left out."""
        return self._at(n - 1 if self.peeled else n)

    def _shifted(self, outputs: Tensor, h: Tensor) -> Tensor:
        parts = [outputs[1:], h[None]] if self.reverse else [h[None], outputs[:-1]]
        return tf.concat(parts, axis=0)[: self.steps]

    def _array(self, like: Tensor) -> Any:
        return tf.TensorArray(like.dtype, size=self.steps, element_shape=like.shape, clear_after_read=False)


def _of_data(convolution: Convolution, of_z: Sequence[Tensor], kernels: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a convolution's data, gate by gate: TensorFlow runs the four side by side."""
    return tf.add_n([convolution.of_data(z, kernel) for z, kernel in zip(of_z, kernels, strict=True)])


def _written(arrays: Sequence[Any], n: Any, values: Sequence[Tensor]) -> list[Any]:
    return [array.write(n, value) for array, value in zip(arrays, values, strict=True)]


def _under_xla() -> bool:
    """Return whether XLA compiles what is being built; where TensorFlow does not tell, it might."""
    try:
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:
        return True
    return not tf.executing_eagerly() and bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
