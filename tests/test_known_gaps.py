"""Every line of docs/known_gaps.md, run as a strict expected failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "known_gaps.md"
GAPS_OF_OURS = PAGE.read_text(encoding="utf-8").partition("## Defects of other libraries")[0]
LINES = dict(re.findall(r"^- `([\w-]+)`: (.+)$", GAPS_OF_OURS, re.MULTILINE))


def keras_layers_without_input() -> None:
    from convlstm.keras import ConvLSTM2D

    ConvLSTM2D(2, 3, padding="same")(None, initial_state=[np.zeros((1, 4, 4, 2), np.float32)] * 2)


def linen_cell_without_input() -> None:
    import jax
    import jax.numpy as jnp

    from convlstm.flax.linen import ConvLSTMCell

    ConvLSTMCell(2, 3).init(jax.random.key(0), (jnp.zeros((1, 4, 4, 2)),) * 2, None)


def torch_layer_and_frames() -> tuple[Any, Any, Any]:
    """Return a layer, frames of three steps, and frames of five."""
    import torch

    from convlstm.torch import ConvLSTM

    return ConvLSTM(1, 2, 3).eval(), torch.ones(1, 3, 1, 4, 4), torch.ones(1, 5, 1, 4, 4)


def torch_script() -> None:
    import torch

    layer, frames, _ = torch_layer_and_frames()
    with warnings.catch_warnings(action="ignore"):  # PyTorch no longer develops TorchScript
        torch.jit.script(layer)(frames)


def torch_export_strict_of_open_time() -> None:
    import torch

    layer, frames, longer = torch_layer_and_frames()
    shapes = {"x": {1: torch.export.Dim("time")}}
    program = torch.export.export(layer, (frames,), dynamic_shapes=shapes, strict=True)
    assert program.module()(longer)[0].shape[1] == 5


def torch_onnx_of_open_time() -> None:
    import torch

    runtime = pytest.importorskip("onnxruntime")
    layer, frames, longer = torch_layer_and_frames()
    file, axes = BytesIO(), {"x": {1: "time"}}
    with warnings.catch_warnings(action="ignore"):  # of the exporter, which is deprecated, and of the trace
        torch.onnx.export(layer, (frames,), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    output, *_ = runtime.InferenceSession(file.getvalue()).run(None, {"x": longer.numpy()})
    assert output.shape[1] == 5


def torch_trace_of_open_time() -> None:
    import torch

    layer, frames, longer = torch_layer_and_frames()
    with warnings.catch_warnings(action="ignore"):  # of the tracer, about the number of steps
        traced = torch.jit.trace(layer, frames)
    assert traced(longer)[0].shape[1] == 5


def torch_quantize_dynamic() -> None:
    import torch

    layer, frames, _ = torch_layer_and_frames()
    with warnings.catch_warnings(action="ignore"):  # PyTorch moves this function to another package
        quantized = torch.ao.quantization.quantize_dynamic(layer, {type(layer)})
    assert not torch.equal(quantized(frames)[0], layer(frames)[0])


def torch_captum_layer_activation() -> None:
    from captum.attr import LayerActivation

    layer, frames, _ = torch_layer_and_frames()
    LayerActivation(lambda x: layer(x)[0].sum(), layer).attribute(frames)


def mlx_quantize() -> None:
    import mlx.core as mx
    from mlx import nn

    from convlstm.mlx import ConvLSTM

    layer, frames = ConvLSTM(64, 64, 3), mx.ones((1, 2, 4, 4, 64))
    before, _ = layer(frames)
    nn.quantize(layer)
    assert not mx.array_equal(layer(frames)[0], before)


def mlx_forward_mode() -> None:
    import mlx.core as mx

    from convlstm.mlx import ConvLSTM

    layer = ConvLSTM(1, 2, 3)
    x = mx.ones((1, 2, 4, 4, 1))
    mx.eval(mx.jvp(lambda x: layer(x)[0], [x], [x]))


def mlx_shapeless() -> None:
    import mlx.core as mx

    from convlstm.mlx import ConvLSTM

    layer = ConvLSTM(1, 2, 3)
    mx.eval(mx.compile(lambda x: layer(x)[0], shapeless=True)(mx.ones((1, 2, 4, 4, 1))))


def mlx_vmap_of_gradient() -> None:
    import mlx.core as mx

    from convlstm.mlx import ConvLSTM

    layer = ConvLSTM(1, 2, 3)

    def loss(weights: object, x: mx.array) -> mx.array:
        return layer.update(weights)(x[None])[0].sum()

    mx.eval(mx.vmap(mx.grad(loss), in_axes=(None, 0))(layer.parameters(), mx.ones((2, 2, 4, 4, 1))))


def mlx_gradient_of_empty_vmap() -> None:
    import mlx.core as mx

    from convlstm.mlx import ConvLSTM

    layer = ConvLSTM(1, 2, 3)

    def loss(weights: object) -> mx.array:
        layer.update(weights)
        return mx.vmap(lambda row: layer(row)[0])(mx.ones((0, 2, 4, 4, 1))).sum()

    mx.eval(mx.grad(loss)(layer.parameters()))


def mlx_export() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import mlx.core as mx

    from convlstm.mlx import ConvLSTM

    layer = ConvLSTM(1, 2, 3)
    with TemporaryDirectory() as folder:
        mx.export_function(str(Path(folder) / "layer.mlxfn"), lambda x: layer(x)[0], mx.ones((1, 2, 4, 4, 1)))


def mlx_threads() -> None:
    from convlstm.mlx.training import set_threads

    set_threads(2)


def jax_rule_forward_mode() -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from convlstm.flax import ConvLSTM

    layer = ConvLSTM(1, 2, 3, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 2, 4, 4, 1))
    jax.jvp(lambda x: layer(x)[1], (x,), (x,))


def flax_tabulate() -> None:
    import jax.numpy as jnp
    from flax import nnx

    from convlstm.flax import ConvLSTM

    nnx.tabulate(ConvLSTM(1, 2, 3, rngs=nnx.Rngs(0)), jnp.ones((1, 2, 4, 4, 1)))


def keras_lengths() -> None:
    from convlstm import ConvLSTMSpec, ForecasterSpec
    from convlstm.errors import ShapeError
    from convlstm.keras import RNN, ConvLSTM1D, ConvLSTM2D, ConvLSTM2DCell, ConvLSTM3D, ConvLSTMStack, Forecaster

    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    layers = [(ConvLSTM1D(2, 3), 1), (ConvLSTM3D(2, 3), 3)]
    layers += [(layer, 2) for layer in (ConvLSTM2D(2, 3), RNN(ConvLSTM2DCell(2, 3)), ConvLSTMStack(spec))]
    layers.append((Forecaster(ForecasterSpec(encoder=spec), horizon=1), 2))
    accepted = []
    for layer, dims in layers:
        try:
            layer(np.zeros((2, 3, *(4,) * dims, 1), np.float32), lengths=[1, 3])
        except ShapeError as error:
            accepted.append(error.argument != "lengths")
        else:
            accepted.append(True)
    assert any(accepted)


def keras_wrappers_when_built() -> None:
    import keras

    from convlstm.errors import ShapeError
    from convlstm.keras import ConvLSTM2D

    both = keras.layers.Bidirectional(ConvLSTM2D(2, 3, duration_strategy="linear"))
    with pytest.raises(ShapeError):
        both(keras.Input((3, 4, 4, 1)))


def keras_tensorflow_saved_training_step() -> None:
    code = """
import tempfile, tensorflow as tf
from convlstm.keras import ConvLSTM2D
class Learner(tf.Module):
    def __init__(self):
        self.layer = ConvLSTM2D(2, 3)
        self.layer.build((None, 2, 6, 6, 1))
    @tf.function(input_signature=[tf.TensorSpec((1, 2, 6, 6, 1))])
    def slope(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(self.layer(x, training=True))
        return tape.gradient(loss, x)
with tempfile.TemporaryDirectory() as folder:
    tf.saved_model.save(Learner(), folder)
"""
    assert "Failed to add concrete function" not in errors_of("tensorflow", code)


def keras_tensorflow_empty_batch_in_a_graph() -> None:
    code = """
import numpy, keras
from convlstm.keras import ConvLSTM2D
model = keras.Sequential([keras.Input((3, 7, 6, 2)), ConvLSTM2D(3, 3)])
model.compile("sgd", "mse", jit_compile=False)
model.predict_on_batch(numpy.zeros((0, 3, 7, 6, 2), "float32"))
"""
    assert "Error" not in errors_of("tensorflow", code)


def keras_tensorflow_empty_sequence_in_a_graph() -> None:
    code = """
import tensorflow as tf
from convlstm.keras import ConvLSTM2D
layer = ConvLSTM2D(2, 3, return_sequences=True)
layer.build((None, None, 6, 6, 1))
call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 6, 6, 1))])
assert call(tf.zeros((2, 3, 6, 6, 1))).shape == (2, 3, 4, 4, 2), "fails in every graph"
call(tf.zeros((2, 0, 6, 6, 1)))
"""
    errors = errors_of("tensorflow", code)
    assert "fails in every graph" not in errors
    assert "stack elements of an empty list" not in errors


def keras_tensorflow_forward_mode_in_a_graph() -> None:
    code = """
import tensorflow as tf
from convlstm.keras import ConvLSTM2D
layer, x = ConvLSTM2D(2, 3), tf.ones((1, 2, 6, 6, 1))
@tf.function
def slope(x):
    with tf.autodiff.ForwardAccumulator(x, x) as along:
        y = layer(x)
    return along.jvp(y)
slope(x)
"""
    assert "<dtype: 'variant'> is not compatible" not in errors_of("tensorflow", code)


def keras_tensorflow_remat() -> None:
    code = """
import keras, tensorflow as tf
from convlstm.keras import ConvLSTM2D
with keras.RematScope(mode="full"):
    layer = ConvLSTM2D(2, 3)
tf.function(lambda x: layer(x, training=True))(tf.ones((1, 2, 6, 6, 1)))
"""
    assert "custom_gradient decorator" not in errors_of("tensorflow", code)


def keras_tensorflow_traced_before_xla() -> None:
    code = """
import tensorflow as tf
from convlstm.engine.tensorflow.fused import serves
from convlstm.keras import ConvLSTM2D
layer, x, quick = ConvLSTM2D(2, 3), tf.ones((1, 2, 6, 6, 1)), []
@tf.function
def call(x):
    y = layer(x)
    quick.append(serves(layer.spec.layers[0]))
    return y
call(x)
tf.function(lambda x: call(x), jit_compile=True)(x)
assert not quick[-1], "still as outside XLA"
"""
    assert "still as outside XLA" not in errors_of("tensorflow", code)


def keras_forecaster_output_shape() -> None:
    from convlstm import ConvLSTMSpec, ForecasterSpec
    from convlstm.keras import Forecaster

    encoder = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=encoder), horizon=3)
    assert model.compute_output_shape((2, 4, 6, 6, 1)) == (2, 3, 6, 6, 1)


def events_of_further_variables() -> None:
    from convlstm import ConvLSTMSpec, ForecasterSpec

    encoder = ConvLSTMSpec(in_channels=2, hidden_channels=2, kernel_size=3)
    assert ForecasterSpec(encoder=encoder, frame_channels=2, thresholds=(0.1, 1.0)).output_channels == 4


def moving_frame_of_values() -> None:
    from convlstm.nowcast.config import validate

    validate({"data": {"frame": "moving"}})


def moving_frame_of_uneven_steps() -> None:
    from convlstm.nowcast.config import validate

    data, model = {"frame": "moving", "max_gap": 900}, {"thresholds": [0.1], "duration_strategy": "mlp"}
    validate({"data": data, "model": model})


def duration_function_file() -> None:
    from convlstm.torch import ConvLSTM

    ConvLSTM(1, 2, 3, duration_strategy=lambda r: r).spec.to_dict()


def exported(backend: str, frames: str, layer: str, call: str = "(frames)") -> str:
    """Return the errors of exporting a model of one layer, in a process of its own: Keras has one backend in each."""
    code = f"""
import tempfile, keras
from convlstm.keras import ConvLSTM2D
frames, durations = keras.Input({frames}), keras.Input((None,))
inputs = [frames, durations] if "durations" in "{call}" else frames
model = keras.Model(inputs, ConvLSTM2D(2, 3, {layer}){call})
model(keras.tree.map_structure(lambda one: keras.ops.ones([size or 8 for size in one.shape]), inputs))
with tempfile.TemporaryDirectory() as folder:
    model.export(folder + "/model", verbose=False)
"""
    return errors_of(backend, code)


def errors_of(backend: str, code: str) -> str:
    # TensorFlow chooses oneDNN by the processor
    onednn = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment = {**os.environ, **onednn, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, check=False, text=True).stderr


def keras_jax_export_of_open_sizes() -> None:
    assert "conv_general_dilated" not in exported("jax", "(None, None, None, 1)", "padding='same', strides=2")


def keras_jax_export_of_open_durations() -> None:
    call = "(frames, durations=durations)"
    assert "ShapeError: durations" not in exported("jax", "(None, 8, 8, 1)", "duration_strategy='linear'", call)


GAPS: dict[str, Callable[[], None]] = {
    run.__name__.replace("_", "-"): run
    for run in (
        torch_script,
        torch_export_strict_of_open_time,
        torch_onnx_of_open_time,
        torch_trace_of_open_time,
        torch_quantize_dynamic,
        torch_captum_layer_activation,
        mlx_quantize,
        mlx_forward_mode,
        mlx_shapeless,
        mlx_vmap_of_gradient,
        mlx_gradient_of_empty_vmap,
        mlx_export,
        mlx_threads,
        jax_rule_forward_mode,
        keras_layers_without_input,
        linen_cell_without_input,
        flax_tabulate,
        keras_lengths,
        keras_wrappers_when_built,
        keras_jax_export_of_open_sizes,
        keras_jax_export_of_open_durations,
        keras_tensorflow_saved_training_step,
        keras_tensorflow_empty_batch_in_a_graph,
        keras_tensorflow_empty_sequence_in_a_graph,
        keras_tensorflow_forward_mode_in_a_graph,
        keras_tensorflow_remat,
        keras_tensorflow_traced_before_xla,
        keras_forecaster_output_shape,
        events_of_further_variables,
        moving_frame_of_values,
        moving_frame_of_uneven_steps,
        duration_function_file,
    )
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xfail(reason=LINES.get(name), strict=True)) for name in GAPS]
)
def test_gap(name: str) -> None:
    GAPS[name]()


def test_every_line_has_its_test_and_a_reason() -> None:
    assert GAPS.keys() == LINES.keys()
    assert all(line.count(".") >= 2 for line in LINES.values()), "what, and why"
