"""One step of the convolutional LSTM for Keras, which holds the variables of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import keras

from convlstm.errors import ShapeError, SpecError
from convlstm.keras import inputs
from convlstm.keras.dropout import sample_masks
from convlstm.keras.engines import State, Tensor
from convlstm.keras.options import (
    CONTRACT_OPTIONS,
    KINDS,
    OF_KERAS,
    PARTS,
    PLAIN_OPTIONS,
    SHOWN,
    CellKeywords,
    DataFormat,
    activation_name,
    as_tuple,
    data_format_of,
    first_shape,
    fixed_size,
)
from convlstm.keras.stack import cell_dtype, grids, run_stack, zero_states
from convlstm.keras.weights import KERNELS, add_variables, engine_weights
from convlstm.spec import parsing
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import PerAxis
from convlstm.weights.canonical import MEMORY_DECAY_START, layer_shapes

Shape = tuple[int | None, ...]


class ConvLSTMCell(DataFormat, keras.layers.Layer):  # type: ignore[misc]
    r"""One convolutional LSTM layer, one step a call (equations: `convlstm.keras.ConvLSTM2D`).

    Abstract: use `ConvLSTM1DCell`, `ConvLSTM2DCell` or `ConvLSTM3DCell`.

    Args:
        filters: Channels of h and c.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is given.
        strides: Stride of the input convolution; h and c live on its output grid.
        padding: `valid`, `same`, or points per axis, of the input convolution.
        data_format: `channels_last` or `channels_first`; None takes Keras's setting.
        dilation_rate: Dilation of the input convolution.
        activation: φ, of candidate and output: tanh, relu, linear, sigmoid, softsign or elu.
        recurrent_activation: σ, of the gates: sigmoid, hard_sigmoid or hard_sigmoid_keras2.
        use_bias: Whether the gates have a bias.
        kernel_initializer: As in Keras.
        recurrent_initializer: As in Keras.
        bias_initializer: As in Keras.
        unit_forget_bias: Whether 1 is the start of the forget gate's bias.
        kernel_regularizer: As in Keras.
        recurrent_regularizer: As in Keras.
        bias_regularizer: As in Keras.
        kernel_constraint: As in Keras.
        recurrent_constraint: As in Keras.
        bias_constraint: As in Keras.
        dropout: Rate on the input, one mask per call for all steps and gates.
        recurrent_dropout: Rate on h before the recurrent convolution, one mask per call.
        seed: Of the dropout masks in training.
        **options: Every further option of `ConvLSTMSpec` that applies to one layer: recurrent_kernel_size, groups,
            boundary, forget_bias, peephole, norm, zoneout_h, zoneout_c, duration_strategy, memory_decay and so on.
            Also the options of every Keras layer: name, dtype, trainable.

    Shapes:
        inputs: (batch, *space, channels), or a tuple with the duration (batch,) and the gap (batch,) the cell uses
        states: [h, c], each (batch, *grid, filters)

    Attributes:
        kernel: (*kernel_size, channels / groups, 4 · filters), gates i, f, g, o, as `keras.layers.ConvLSTM*` has it.
        recurrent_kernel: (*recurrent_kernel_size, filters, 4 · filters), in the same order of gates.
        bias: (4 · filters), in the same order of gates; None without one.

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> import numpy as np
        >>> cell = ConvLSTM2DCell(8, 3, padding="same")
        >>> h, (h, c) = cell(np.zeros((2, 16, 16, 1)), [np.zeros((2, 16, 16, 8))] * 2)
        >>> tuple(h.shape)
        (2, 16, 16, 8)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: PerAxis,
        strides: PerAxis = 1,
        padding: str | PerAxis = "valid",
        data_format: str | None = None,
        dilation_rate: PerAxis = 1,
        activation: str | Callable[..., Any] | None = "tanh",
        recurrent_activation: str | Callable[..., Any] | None = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **options: Unpack[CellKeywords],
    ) -> None:
        of_layer: dict[str, Any] = {**options}
        of_contract = {name: of_layer.pop(name) for name in CONTRACT_OPTIONS & of_layer.keys()}
        parsing.check_options(of_layer, OF_KERAS | CONTRACT_OPTIONS | set(SHOWN))
        super().__init__(autocast=False, **of_layer)
        # before the initialisers, as in Keras: one global seed then starts both from the same weights
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.filters, self.kernel_size, self.strides = filters, as_tuple(kernel_size), as_tuple(strides)
        self.padding = padding.lower() if isinstance(padding, str) else as_tuple(padding)
        self.data_format = data_format_of(data_format)
        self.dilation_rate, self.use_bias, self.unit_forget_bias = as_tuple(dilation_rate), use_bias, unit_forget_bias
        self.activation, self.recurrent_activation = activation_name(activation), activation_name(recurrent_activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.dropout, self.recurrent_dropout, self.seed = dropout, recurrent_dropout, seed
        self.options = {name: as_tuple(value) for name, value in of_contract.items()}
        self.state_size = [filters, filters]
        groups = parsing.integer("groups", self.options.get("groups", 1), 1)
        self.spec = self._spec(groups, None)  # raises an error for wrong options before any input is seen

    def canonical_variables(self) -> dict[str, Any]:
        """Return the variables by canonical key."""
        return {f"layers.0.forward.{name}": variable for name, variable in self.variables_by_name.items()}

    @inputs.errors_in_keras_terms
    def build(self, inputs_shape: Any, states_shape: Any = None) -> None:
        """Make the variables for frames of this shape (batch, *space, channels), in the cell's data format."""
        shape = first_shape(inputs_shape)
        if len(shape) == self.rank + 3:  # as `keras.layers.RNN` passes a pair (frames, durations)
            raise ShapeError(
                "inputs",
                expected="one frame, and not a sequence of them",
                received=f"shape {shape}",
                hint="Run the cell over sequences with `convlstm.keras.RNN(cell)` in place of `keras.layers.RNN`.",
            )
        inputs.check_rank("inputs", self.rank, shape, "batch")
        shape = self.channels_last(shape)
        if shape[-1] is None:
            raise SpecError(
                "channels", expected="a number", received="None", hint="Fix the number of channels of the input."
            )
        self.spec, self.input_size = self._spec(shape[-1], shape[1:-1]), shape[1:-1]
        shapes = layer_shapes(self.spec.layers[0])
        how: dict[str, dict[str, Any]] = {
            array: {kind: getattr(self, f"{part}_{kind}") for kind in KINDS} for part, array in PARTS.items()
        }
        how["bias"]["initializer"] = self._start_bias
        how["norm_scale"] = {"initializer": "ones"}
        how["memory_decay"] = {"initializer": keras.initializers.Constant(MEMORY_DECAY_START)}
        for n in range(len(self.spec.duration_hidden)):
            how[f"duration.{n}.weight"] = {"initializer": "glorot_uniform"}
        self.variables_by_name = add_variables(self, shapes, how)
        self.kernel, self.recurrent_kernel = (self.variables_by_name[name] for name in KERNELS)
        self.bias = self.variables_by_name.get("bias")

    @inputs.errors_in_keras_terms
    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Take one step.

        Args:
            inputs: The frame, or a tuple with the duration and the gap that the cell uses.
            states: h and c of the step before.
            training: Whether dropout and zoneout are applied.

        Returns:
            h, and [h, c], after the step.
        """
        x, state, durations, gaps = self._read(inputs, states)
        batch, *size = keras.ops.shape(x)[:-1]
        dropout_masks = (
            sample_masks(self.spec, self.compute_dtype, batch, tuple(size), 1, self.seed_generator)
            if training
            else None
        )
        frames = keras.ops.expand_dims(x, 0)
        _, final = run_stack(
            self.spec,
            self.weights_of,
            frames,
            [state],
            steps=1,
            durations=durations,
            gaps=gaps,
            dropout_masks=dropout_masks,
        )
        h, c = (self.to_user(a) for a in final[0])
        return h, [h, c]

    @inputs.errors_in_keras_terms
    def compute_output_spec(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
        """Return the output of a step as symbols, for inputs that `call` takes: c keeps at least float32."""
        self._read(inputs, states)
        frame = inputs[0] if isinstance(inputs, (tuple, list)) else inputs
        shape, kind = self.state_shape(tuple(frame.shape)), self.compute_dtype
        h, again, c = (keras.KerasTensor(shape, dtype=dtype) for dtype in (kind, kind, cell_dtype(kind)))
        return h, [again, c]

    def compute_output_shape(self, inputs_shape: Any, states_shape: Any = None) -> tuple[Shape, list[Shape]]:
        """Return the shapes of h, and of [h, c]."""
        shape = self.state_shape(first_shape(inputs_shape))
        return shape, [shape, shape]

    def state_shape(self, shape: Shape) -> Shape:
        """Return the shape of h for frames (batch, *space, channels), both in the cell's data format."""
        last = self.channels_last(shape)
        spec = self.spec if self.built else self._spec(last[-1], last[1:-1])
        return self.user_format((last[0], *grids(spec, last[1:-1])[0], self.filters))

    def read_state(self, name: str, given: Any, shape: Shape) -> State:
        """Return the state [h, c] given as this argument, for frames (batch, *space, channels), with channels last."""
        state_shape = self.user_format((shape[0], *grids(self.spec, shape[1:-1])[0], self.filters))
        h, c = inputs.read_states(given, [state_shape], self.compute_dtype, name, self.data_format)[0]
        return self.to_last(h), self.to_last(c)

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        """Return zero states for the frames' size the cell was built with."""
        h, c = zero_states(self.spec, self.compute_dtype, batch_size, self.input_size)[0]
        return [self.to_user(h), self.to_user(c)]

    def weights_of(self, *_: Any) -> dict[str, Tensor]:
        """Return the arrays for the engine."""
        return engine_weights(self.variables_by_name, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments the cell was made with."""
        self.spec.to_dict()  # raises an error for a function as strategy
        config: dict[str, Any] = super().get_config()
        config |= {name: getattr(self, name) for name in PLAIN_OPTIONS}
        for part in PARTS:
            config[f"{part}_initializer"] = keras.initializers.serialize(getattr(self, f"{part}_initializer"))
            config[f"{part}_regularizer"] = keras.regularizers.serialize(getattr(self, f"{part}_regularizer"))
            config[f"{part}_constraint"] = keras.constraints.serialize(getattr(self, f"{part}_constraint"))
        return config | self.options

    def _read(self, given: Any, states: Any) -> tuple[Any, ...]:
        """Return the frame with channels last, the state, durations and gaps, all checked."""
        spec = self.spec
        frame, duration, gap = inputs.split_inputs(given, inputs.used_times(spec), (None, None))
        x = inputs.tensor("inputs", frame, self.compute_dtype)
        inputs.check_frames("inputs", spec, tuple(x.shape), "batch", data_format=self.data_format)
        x = self.to_last(x)
        of_step = None if duration is None else inputs.one_step("duration", duration, x)
        since = None if gap is None else inputs.one_step("gap", gap, x)
        times = inputs.read_times(spec, of_step, since, keras.ops.expand_dims(x, 1), None)
        return x, self.read_state("states", states, tuple(x.shape)), *times

    @inputs.errors_in_keras_terms
    def _spec(self, in_channels: int, input_size: Shape | None) -> ConvLSTMSpec:
        options = dict(self.options)
        if self.use_bias and options.get("forget_bias") is None:
            options["forget_bias"] = 1.0 if self.unit_forget_bias else 0.0
        if options.get("peephole") == "pixel" and options.get("input_size") is None:
            # its grid is known once an input is
            options |= {"peephole": "none"} if input_size is None else {"input_size": fixed_size(input_size)}
        return ConvLSTMSpec(
            in_channels=in_channels,
            hidden_channels=parsing.integer("filters", self.filters, 1),
            num_layers=1,
            kernel_size=self.kernel_size,
            spatial_dims=self.rank,
            stride=self.strides,
            padding=self.padding,
            dilation=self.dilation_rate,
            bias=self.use_bias,
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            input_dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            **options,
        )

    def _start_bias(self, shape: Shape, dtype: Any = None) -> Tensor:
        """Return the bias at start: Keras's initializer, and for the forget gate its own value."""
        forget = self.options.get("forget_bias", 1.0 if self.unit_forget_bias else None)
        if forget is None:
            return self.bias_initializer(shape, dtype=dtype)
        before, after = (self.bias_initializer((n * self.filters,), dtype=dtype) for n in (1, 2))
        return keras.ops.concatenate([before, keras.ops.full_like(before, forget), after])


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTM1DCell(ConvLSTMCell):
    """One step of `convlstm.keras.ConvLSTM1D` (arguments: `ConvLSTMCell`)."""

    rank = 1


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTM2DCell(ConvLSTMCell):
    """One step of `convlstm.keras.ConvLSTM2D` (arguments: `ConvLSTMCell`)."""

    rank = 2


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTM3DCell(ConvLSTMCell):
    """One step of `convlstm.keras.ConvLSTM3D` (arguments: `ConvLSTMCell`)."""

    rank = 3


CELLS: dict[int, type[ConvLSTMCell]] = {1: ConvLSTM1DCell, 2: ConvLSTM2DCell, 3: ConvLSTM3DCell}
"""The cell of each number of spatial axes."""
