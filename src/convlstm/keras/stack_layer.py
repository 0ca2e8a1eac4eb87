"""A stack of layers as one Keras layer, with every option of the contract."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from convlstm.frontend.arguments import check_spec_type
from convlstm.frontend.dropout import check_use, count_steps
from convlstm.frontend.loading import HoldsExtra
from convlstm.frontend.merge import merge_directions
from convlstm.keras import inputs
from convlstm.keras.dropout import masks_of_sequence, read_masks, sample_masks
from convlstm.keras.engines import Tensor
from convlstm.keras.stack import cell_dtype, concatenate, grids, run_stack
from convlstm.keras.weights import add_variables, engine_weights, initializer, seed_of
from convlstm.spec import calls
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise, layer_prefix, layer_shapes

Shape = tuple[int | None, ...]
States = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@keras.saving.register_keras_serializable("convlstm")
class ConvLSTMStack(HoldsExtra, inputs.MasksOnly, keras.layers.Layer):  # type: ignore[misc]
    """A stack of convolutional LSTM layers, in one or both directions, from one spec (equations: `ConvLSTM2D`).

    This is the layer that a file of any framework is read into. It starts from the contract's initialisation, and
    returns what `convlstm.torch.ConvLSTM` returns.

    Args:
        spec: Every option of the stack.
        seed: Of the initial weights and of the dropout masks in training; None draws one.
        **options: As of every Keras layer (name, dtype, trainable).

    Shapes:
        x:        (batch, time, *space, in_channels)
        output:   (batch, time, *grid, D · hidden_channels) with D = 2 if bidirectional (merge concat), else 1
        h_n, c_n: tuples indexed layer · D + direction, forward first, each (batch, *grid, hidden_channels)

    Attributes:
        spec: The options as a `ConvLSTMSpec`.

    Raises:
        SpecError: for an argument that is not a spec.

    Example:
        >>> import numpy as np
        >>> stack = ConvLSTMStack(ConvLSTMSpec(in_channels=1, hidden_channels=[8, 4], kernel_size=3))
        >>> output, (h_n, c_n) = stack(np.zeros((2, 5, 16, 16, 1)))
        >>> tuple(output.shape), tuple(h_n[0].shape)
        ((2, 5, 16, 16, 4), (2, 16, 16, 8))
    """

    def __init__(self, spec: ConvLSTMSpec, *, seed: int | None = None, **options: Any) -> None:
        check_spec_type(spec, ConvLSTMSpec)
        super().__init__(autocast=False, **options)
        self.spec, self.seed = spec, seed
        self.supports_masking = True
        self.seed_generator = keras.random.SeedGenerator(seed)
        start = initialise(spec, seed_of(self.seed_generator))
        self._variables_of = {}
        for layer in spec.layers:
            for direction in spec.directions:
                prefix = layer_prefix(layer.index, direction)
                shapes = layer_shapes(layer)
                how = {name: {"initializer": initializer(start[prefix + name], name)} for name in shapes}
                self._variables_of[prefix] = add_variables(self, shapes, how, prefix.replace(".", "_"))
        self.built = True

    def canonical_variables(self) -> dict[str, Any]:
        """Return the variables by canonical key."""
        variables: dict[str, Any] = {}
        for prefix, of_layer in self._variables_of.items():
            variables |= {prefix + name: variable for name, variable in of_layer.items()}
        return variables

    def weights_of(self, index: int, direction: str) -> dict[str, Tensor]:
        """Return what the engine computes with, of one layer and direction."""
        return engine_weights(self._variables_of[layer_prefix(index, direction)], self.compute_dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the stack. `steps` may be an integer of NumPy, which Keras would make a tensor."""
        if isinstance(kwargs.get("steps"), np.integer):
            kwargs["steps"] = int(kwargs["steps"])
        return super().__call__(*args, **kwargs)

    @inputs.errors_unchanged
    def call(
        self,
        x: Tensor | None,
        state: States | None = None,
        mask: Any = None,
        training: bool = False,
        durations: Any = None,
        gaps: Any = None,
        dropout_masks: DropoutMasks | None = None,
        steps: int | None = None,
    ) -> tuple[Any, States]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, *space, in_channels); None in a stack without input (`in_channels=0`), which needs `steps`
                and `state`.
            state: (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
            mask: True where a step is valid (batch, time).
            training: Whether dropout and zoneout are applied.
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several
                calls, or one dropout over a sequence in parts.
            steps: Number of steps of a stack without input.

        Returns:
            output and (h_n, c_n); with merge `separate` output is a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the state does not fit the batch or the grid.
        """
        spec, dtype = self.spec, self.compute_dtype
        x, states, valid, given, by_direction = self._read(x, state, mask, durations, gaps, steps)
        batch, steps, *size = keras.ops.shape(x)[:-1]
        masks = None
        if dropout_masks is not None:
            masks = self._read_masks(dropout_masks, tuple(x.shape), training)
        elif training:
            masks = sample_masks(spec, dtype, batch, tuple(size), steps, self.seed_generator)
        outputs, final = run_stack(
            spec,
            self.weights_of,
            keras.ops.swapaxes(x, 0, 1),
            states,
            steps=steps,
            mask=valid,
            durations=given,
            gaps=by_direction,
            dropout_masks=masks,
            training=training,
        )
        parts = [keras.ops.swapaxes(part, 0, 1) for part in outputs[-1]]
        output = merge_directions(parts, spec.merge, concatenate)
        return output, (tuple(h for h, _ in final), tuple(c for _, c in final))

    @inputs.errors_unchanged
    def compute_output_spec(
        self,
        x: Any,
        state: Any = None,
        mask: Any = None,
        training: bool = False,
        durations: Any = None,
        gaps: Any = None,
        dropout_masks: DropoutMasks | None = None,
        steps: int | None = None,
    ) -> tuple[Any, Any]:
        """Return the results as symbols, for inputs that `call` takes."""
        x, *_ = self._read(x, state, mask, durations, gaps, steps)
        if dropout_masks is not None:
            self._read_masks(dropout_masks, tuple(x.shape), training)
        spec, dtype, shapes = self.spec, self.compute_dtype, self._state_shapes(tuple(x.shape))
        h, c = (tuple(keras.KerasTensor(shape, dtype=kind) for shape in shapes) for kind in (dtype, cell_dtype(dtype)))
        shape = (*x.shape[:2], *shapes[-1][1:-1], spec.out_channels())
        parts = tuple(keras.KerasTensor(shape, dtype=dtype) for _ in spec.directions)
        return parts if spec.merge == "separate" and len(parts) > 1 else parts[0], (h, c)

    def sample_masks(
        self, x: Tensor | None, steps: int | None = None, *, state: States | None = None, seed: Any = None
    ) -> DropoutMasks:
        """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

        Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others.

        Args:
            x: Frames as of a call, of which batch and size count. None in a stack without input, which needs `steps`
                and `state`.
            steps: Number of steps of the whole sequence; None takes that of the frames.
            state: Initial (h_0, c_0) as of a call, of a stack without input.
            seed: Integer, or a `keras.random.SeedGenerator`; None takes the layer's own.

        Returns:
            The masks, per-step ones (batch, time, *grid, channels); without any mask for a layer without a random part.

        Example:
            >>> import numpy as np
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3, zoneout_h=0.1)
            >>> stack, x = ConvLSTMStack(spec), np.ones((2, 5, 8, 8, 1))
            >>> masks = stack.sample_masks(x)
            >>> whole, _ = stack(x, training=True, dropout_masks=masks)
            >>> first, state = stack(x[:, :3], training=True, dropout_masks=masks[:3])
            >>> second, _ = stack(x[:, 3:], state, training=True, dropout_masks=masks[3:])
            >>> joined = keras.ops.concatenate([first, second], axis=1)
            >>> bool(keras.ops.all(keras.ops.isclose(joined, whole, atol=1e-6)))
            True
        """
        steps = count_steps(self.spec, x, state, steps)
        if x is None:
            x = inputs.frames_of_state(self.spec, state, steps, self.compute_dtype)
        x = inputs.tensor("x", x, self.compute_dtype)
        inputs.check_frames("x", self.spec, tuple(x.shape), "batch", "time")
        source = self.seed_generator if seed is None else seed
        return masks_of_sequence(self.spec, self.compute_dtype, keras.ops.shape(x), steps, source)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Return None: no output carries the mask on."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments the layer was made with."""
        config: dict[str, Any] = super().get_config()
        return config | {"spec": self.spec.to_dict(), "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConvLSTMStack:
        """Return the stack that `get_config` describes."""
        return cls(**config | {"spec": ConvLSTMSpec.from_dict(config["spec"])})

    def _read(self, x: Any, state: Any, mask: Any, durations: Any, gaps: Any, steps: Any) -> tuple[Any, ...]:
        """Return frames, states (None each for zeros), mask, durations and gaps, all checked."""
        if not calls.check_input(self.spec, x, steps):
            x = inputs.frames_of_state(self.spec, state, steps, self.compute_dtype)
            if all(part is None for part in keras.tree.flatten(mask)):
                mask = None  # without frames, Keras passes the masks of the states
        valid, x = inputs.read_mask(mask, x), inputs.tensor("x", x, self.compute_dtype)
        inputs.check_frames("x", self.spec, tuple(x.shape), "batch", "time")
        times = inputs.read_times(self.spec, durations, gaps, x, valid)
        shapes = self._state_shapes(tuple(x.shape))
        if state is None:
            return x, [None] * len(shapes), valid, *times
        return x, inputs.read_states(state, shapes, self.compute_dtype), valid, *times

    def _read_masks(self, masks: Any, shape: Shape, training: bool) -> DropoutMasks:
        """Return the masks of a call time first, checked against frames of this shape."""
        check_use(masks, training, False, "seed", "Pass `training=True`.")
        return read_masks(self.spec, masks, shape, self.compute_dtype)

    def _state_shapes(self, shape: Shape) -> list[Shape]:
        sizes = grids(self.spec, shape[2:-1])
        shapes = [(shape[0], *grid, layer.hidden_channels) for layer, grid in zip(self.spec.layers, sizes, strict=True)]
        return [state for state in shapes for _ in self.spec.directions]
