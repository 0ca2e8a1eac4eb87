"""A cell over a sequence, for Keras: frames, durations and masks in, outputs and states out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from convlstm.errors import ShapeError, SpecError
from convlstm.frontend.dropout import check_use, count_steps
from convlstm.keras import inputs
from convlstm.keras.cell import ConvLSTMCell
from convlstm.keras.dropout import masks_of_sequence, read_masks, sample_masks
from convlstm.keras.engines import BACKEND, Tensor
from convlstm.keras.options import first_shape
from convlstm.keras.stack import cell_dtype, run_stack
from convlstm.spec.choices import MASKED_OUTPUTS
from convlstm.spec.masks import DropoutMasks, LayerMasks
from convlstm.spec.options import ConvLSTMSpec

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("convlstm")
class RNN(inputs.MasksOnly, keras.layers.RNN):  # type: ignore[misc]
    """Runs a cell of this package over a sequence, as `keras.layers.RNN`, and takes durations with the frames.

    `keras.layers.RNN` refuses a tuple (frames, durations), and runs a cell step by step; this one runs the engine.

    Args:
        cell: A `ConvLSTM1DCell`, `ConvLSTM2DCell` or `ConvLSTM3DCell`.
        return_sequences: Whether the outputs of all steps come back, or the last one alone.
        return_state: Whether h and c come back after the output.
        go_backwards: Whether the last step comes first; outputs are then in that order.
        stateful: Whether a call starts from the states that the call before ended with.
        masked_output: Output of a masked step: `hold` for the previous output, or `zero`.
        **options: As of every Keras layer (name, dtype, trainable), and Keras's `zero_output_for_mask`. `unroll` is
            taken for the sake of Keras's configurations: the engine chooses how steps run.

    Shapes:
        sequences: (batch, time, *space, channels), or a tuple with durations (batch, time) and gaps (batch, time)
        returns:   (batch, *grid, filters), or with return_sequences (batch, time, *grid, filters)

    Raises:
        SpecError: for a cell of another kind, or options out of range.

    Example:
        >>> import numpy as np
        >>> from convlstm.keras.cell import ConvLSTM2DCell
        >>> layer = RNN(ConvLSTM2DCell(8, 3, duration_strategy="linear"), return_sequences=True)
        >>> tuple(layer((np.zeros((2, 5, 16, 16, 1)), np.ones((2, 5)))).shape)
        (2, 5, 14, 14, 8)
    """

    def __init__(
        self,
        cell: ConvLSTMCell,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        *,
        masked_output: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(cell, ConvLSTMCell):
            raise SpecError(
                "cell",
                expected="a cell of convlstm.keras",
                received=type(cell).__name__,
                hint="Use `keras.layers.RNN` for other cells.",
            )
        if masked_output is not None:
            if masked_output not in MASKED_OUTPUTS:
                raise SpecError(
                    "masked_output", expected="hold or zero", received=repr(masked_output), hint="Choose one of these."
                )
            options["zero_output_for_mask"] = masked_output == "zero"
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            autocast=False,
            **options,
        )

    @property
    def spec(self) -> ConvLSTMSpec:
        """The options as a `ConvLSTMSpec`; its in_channels is known once the layer is built."""
        spec: ConvLSTMSpec = replace(
            self.cell.spec,
            direction="reverse" if self.go_backwards else "forward",
            masked_output="zero" if self.zero_output_for_mask else "hold",
        )
        return spec

    def canonical_variables(self) -> dict[str, Any]:
        """Return the variables by canonical key."""
        prefix = f"layers.0.{self.spec.direction}."
        return {prefix + name: variable for name, variable in self.cell.variables_by_name.items()}

    @inputs.errors_in_keras_terms
    def build(self, sequences_shape: Any = None, initial_state_shape: Any = None) -> None:
        """Make the variables, and the states of a stateful layer."""
        inputs.check_given("sequences", sequences_shape)
        shape = first_shape(sequences_shape)
        inputs.check_rank("sequences", self.cell.rank, shape, "batch", "time")
        if self.stateful and None in (shape[0], *shape[2:]):
            raise SpecError(
                "stateful",
                expected="a fixed batch and frame size",
                received=f"shape {shape}",
                hint="Build the model with `batch_shape=(batch, None, *size, channels)`.",
            )
        if not self.cell.built:
            self.cell.build((shape[0], *shape[2:]))
            self.cell.built = True
        if self.stateful and self.states is None:
            self._create_state_variables(shape[0])

    @inputs.errors_in_keras_terms
    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        durations: Any = None,
        gaps: Any = None,
        dropout_masks: DropoutMasks | None = None,
    ) -> Any:
        """Run the layer over a sequence.

        Args:
            sequences: Frames, or a tuple of frames and the durations and gaps that the layer uses.
            initial_state: [h, c]; None means zeros, or the kept states of a stateful layer.
            mask: True where a step is valid (batch, time).
            training: Whether dropout and zoneout are applied.
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), for `memory_decay`.
            dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several
                calls, or one dropout over a sequence in parts.

        Returns:
            The output, followed by h and c with `return_state`.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if a state does not fit the batch or the grid.
        """
        spec, cell = self.spec, self.cell
        x, state, valid, given, by_direction = self._read(sequences, initial_state, mask, durations, gaps)
        batch, steps, *size = keras.ops.shape(x)[:-1]
        masks = None
        if dropout_masks is not None:
            masks = self._read_masks(dropout_masks, tuple(x.shape), training)
        elif training:
            masks = sample_masks(spec, self.compute_dtype, batch, tuple(size), steps, cell.seed_generator)
        outputs, final = run_stack(
            spec,
            cell.weights_of,
            keras.ops.swapaxes(x, 0, 1),
            [state],
            steps=steps,
            mask=valid,
            durations=given,
            gaps=by_direction,
            dropout_masks=masks,
            training=training,
        )
        h, c = (cell.to_user(a) for a in final[0])
        if self.stateful:
            for kept, new in zip(self.states, (h, c), strict=True):
                kept.assign(new)
        output = self._output(outputs[0][0])
        return (output, h, c) if self.return_state else output

    @inputs.errors_in_keras_terms
    def sample_masks(self, sequences: Any, steps: int | None = None, *, seed: Any = None) -> DropoutMasks:
        """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

        Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others.

        Args:
            sequences: Frames as of a call, of which batch and size count.
            steps: Number of steps of the whole sequence; None takes that of the frames.
            seed: Integer, or a `keras.random.SeedGenerator`; None takes the layer's own.

        Returns:
            The masks in the layer's data format, per-step ones (batch, time, *grid, filters);
            without any mask for a layer without a random part.

        Example:
            >>> import numpy as np
            >>> from convlstm.keras import ConvLSTM2D
            >>> layer, x = ConvLSTM2D(8, 3, recurrent_dropout=0.2), np.ones((2, 5, 8, 8, 1))
            >>> masks = layer.sample_masks(x)
            >>> one, other = (layer(x, training=True, dropout_masks=masks) for _ in range(2))
            >>> bool(keras.ops.all(one == other))
            True
        """
        frames = sequences[0] if isinstance(sequences, (tuple, list)) else sequences
        inputs.check_given("sequences", frames)
        x = inputs.tensor("sequences", frames, self.compute_dtype)
        if not self.cell.built:
            self.build(tuple(x.shape))
        inputs.check_frames("sequences", self.spec, tuple(x.shape), "batch", "time", data_format=self.cell.data_format)
        steps = count_steps(self.spec, x, None, steps, "sequences")
        source = self.cell.seed_generator if seed is None else seed
        shape = keras.ops.shape(self.cell.to_last(x))
        return _map_masks(masks_of_sequence(self.spec, self.compute_dtype, shape, steps, source), self.cell.to_user)

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        """Return the shape of the output, followed by those of h and c with `return_state`."""
        inputs.check_rank("sequences", self.cell.rank, first_shape(sequences_shape), "batch", "time")
        batch, steps, *frame = first_shape(sequences_shape)
        state = self.cell.state_shape((batch, *frame))
        output = (batch, steps, *state[1:]) if self.return_sequences else state
        return (output, state, state) if self.return_state else output

    @inputs.errors_in_keras_terms
    def compute_output_spec(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        durations: Any = None,
        gaps: Any = None,
        dropout_masks: DropoutMasks | None = None,
    ) -> Any:
        """Return the output as a symbol, for inputs that `call` takes: c keeps at least float32."""
        x, *_ = self._read(sequences, initial_state, mask, durations, gaps)
        if dropout_masks is not None:
            self._read_masks(dropout_masks, tuple(x.shape), training)
        frames = sequences[0] if isinstance(sequences, (tuple, list)) else sequences
        shapes = self.compute_output_shape(tuple(frames.shape))
        if not self.return_state:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        kinds = (self.compute_dtype, self.compute_dtype, cell_dtype(self.compute_dtype))
        return tuple(keras.KerasTensor(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments the layer was made with."""
        config: dict[str, Any] = super().get_config()
        zero = config.pop("zero_output_for_mask")
        return config | {"masked_output": "zero" if zero else "hold"}

    def _read(self, sequences: Any, initial_state: Any, mask: Any, durations: Any, gaps: Any) -> tuple[Any, ...]:
        """Return frames with channels last, the state or None for zeros, mask, durations and gaps, all checked."""
        spec, cell = self.spec, self.cell
        inputs.check_given("sequences", sequences)
        frames, durations, gaps = inputs.split_inputs(sequences, inputs.used_times(spec), (durations, gaps))
        valid = inputs.read_mask(mask, frames)
        x = inputs.tensor("sequences", frames, self.compute_dtype)
        inputs.check_frames("sequences", spec, tuple(x.shape), "batch", "time", data_format=cell.data_format)
        if x.shape[1] == 0 and not self.return_sequences:
            raise ShapeError(
                "sequences",
                expected="at least one step, whose output is the last",
                received=f"shape {tuple(x.shape)}",
                hint="Pass `return_sequences=True` for sequences that may be empty.",
            )
        x, given = cell.to_last(x), self.states if initial_state is None and self.stateful else initial_state
        times = inputs.read_times(spec, durations, gaps, x, valid)
        if given is None:
            return x, None, valid, *times
        state = cell.read_state("initial_state", given, (x.shape[0], *x.shape[2:]))
        if self.stateful and BACKEND == "torch":
            state = tuple(keras.ops.copy(part) for part in state)  # the kept ones are written to after the call
        return x, state, valid, *times

    def _read_masks(self, masks: Any, shape: Shape, training: bool) -> DropoutMasks:
        """Return the masks of a call time first and channels last, checked against such frames of this shape."""
        check_use(masks, training, False, "seed", "Pass `training=True`.")
        return read_masks(self.spec, masks, shape, self.compute_dtype, self.cell.to_last)

    def _output(self, outputs: Tensor) -> Tensor:
        """Return what the layer returns of its outputs, which are time first and in input order."""
        if not self.return_sequences:
            return self.cell.to_user(outputs[0 if self.go_backwards else -1])
        outputs = keras.ops.flip(outputs, axis=0) if self.go_backwards else outputs
        return self.cell.to_user(keras.ops.swapaxes(outputs, 0, 1))


def _map_masks(masks: DropoutMasks, function: Callable[[Tensor], Tensor]) -> DropoutMasks:
    """Return the masks of one layer with a function applied to each."""
    changed = {
        place: LayerMasks(*[None if mask is None else function(mask) for mask in inside])
        for place, inside in masks.masks.items()
    }
    return DropoutMasks(changed, masks.dropout)
