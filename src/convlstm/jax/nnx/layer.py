"""The convolutional LSTM layer for Flax nnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from convlstm.engine.jax.recurrence import State
from convlstm.frontend.arguments import layer_spec
from convlstm.frontend.dropout import check_use
from convlstm.jax import functional
from convlstm.jax.inputs import compute_type
from convlstm.jax.nnx.module import RandomSource, SpecModule, one_key
from convlstm.jax.segments import read_checkpoint
from convlstm.spec.choices import PER_LAYER, LayerOptions
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import LayerSizes, Padding


class ConvLSTM(SpecModule):
    r"""A stack of convolutional LSTM layers over a sequence of fields.

    For each step t of each layer, with ∗ convolution and ∘ element-wise product:

        i   = σ(W_xi ∗ x_t + W_hi ∗ h_{t-1} + p_i ∘ c_{t-1} + b_i)
        f   = σ(W_xf ∗ x_t + W_hf ∗ h_{t-1} + p_f ∘ c_{t-1} + b_f)
        g   = tanh(W_xg ∗ x_t + W_hg ∗ h_{t-1} + b_g)
        c_t = f ∘ c_{t-1} + i ∘ g · δ(Δ_t)
        o   = σ(W_xo ∗ x_t + W_ho ∗ h_{t-1} + p_o ∘ c_t + b_o)
        h_t = o ∘ tanh(c_t)

    Peepholes p are off by default, and δ is 1 unless a `duration_strategy` is chosen. There is one bias; the
    forget gate's starts at 1. Source: Shi et al. (2015), Eq. 3, arXiv:1506.04214. Definition:
    `convlstm.reference.recurrence`.

    Args:
        in_features: Channels of the input frames.
        hidden_features: Channels of h and c; a list gives one number per layer.
        kernel_size: Kernel of the input convolution, and of the recurrent one unless `recurrent_kernel_size` is
            given; an int, a tuple per spatial axis, or a list of these per layer.
        num_layers: Number of layers; None takes the length of a list of hidden channels, or 1.
        stride: Stride of the input convolution; h and c live on its output grid.
        padding: `same`, `valid`, or points per axis, of the input convolution.
        dilation: Dilation of the input convolution.
        groups: Groups of the input convolution, inside each gate.
        bias: Whether the gates have a bias.
        dtype: Type of the convolutions; None takes that of input and parameters together. c stays in float32.
        param_dtype: Type of the parameters.
        generic: Leave every derivative to JAX: slower to train on CPU, and open to forward mode (`jax.jvp`).
        checkpoint: Whether training keeps only √T of the steps' activations and computes the rest again in the backward
            pass; a number is the steps per segment. For stacks of one direction.
        rngs: Keys: `params` for the weights, `dropout` for the masks in training.
        **options: Every further option of `ConvLSTMSpec`: direction, peephole, boundary, norm, durations and so on.

    Shapes:
        x:     (batch, time, *space, in_features), or (time, *space, in_features) without a batch
        y:     (batch, time, *grid, D · hidden_features) with D = 2 if bidirectional (merge concat), else 1
        carry: State(h, c), tuples indexed layer · D + direction, forward first, each (batch, *grid, hidden_features)

    Attributes:
        spec: The options as a `ConvLSTMSpec`.
        layers_{k}_forward: The parameters of layer k: kernel (*kernel, in / groups, 4 · hidden_features),
            recurrent_kernel, bias and so on, gates i, f, g, o. Backward layers are `layers_{k}_reverse`.
        deterministic: True in evaluation, as `nnx.Module.eval` and `train` set it.

    Raises:
        SpecError: for options out of range, contradictory or without effect.

    Example:
        >>> layer = ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(0))
        >>> carry, y = layer(jnp.zeros((2, 5, 16, 16, 1)))
        >>> y.shape, carry.h[0].shape
        ((2, 5, 16, 16, 8), (2, 16, 16, 8))
    """

    spec: ConvLSTMSpec

    def __init__(
        self,
        in_features: int,
        hidden_features: int | Sequence[int],
        kernel_size: LayerSizes,
        num_layers: int | None = None,
        *,
        stride: LayerSizes = 1,
        padding: Padding = "same",
        dilation: LayerSizes = 1,
        groups: int | Sequence[int] = 1,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        generic: bool = False,
        checkpoint: bool | int = False,
        rngs: nnx.Rngs,
        **options: Unpack[LayerOptions],
    ) -> None:
        spec = layer_spec(
            in_features,
            hidden_features,
            kernel_size,
            num_layers,
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias, **options},
            in_argument="in_features",
        )
        self.checkpoint = read_checkpoint(spec, checkpoint)
        super().__init__(spec, dtype, param_dtype, generic, rngs)

    @classmethod
    def from_spec(
        cls,
        spec: ConvLSTMSpec,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        generic: bool = False,
        checkpoint: bool | int = False,
        rngs: nnx.Rngs,
    ) -> ConvLSTM:
        """Build the layer from a spec, as read from a file.

        Args:
            spec: Every option of the stack.
            dtype: Type of the convolutions; None takes that of input and parameters together.
            param_dtype: Type of the parameters.
            generic: Leave every derivative to JAX.
            checkpoint: Whether training keeps only √T of the steps' activations, or the steps per segment.
            rngs: Keys: `params` for the weights, `dropout` for the masks in training.

        Returns:
            A freshly initialised layer.

        Example:
            >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
            >>> ConvLSTM.from_spec(spec, rngs=nnx.Rngs(0)).spec == spec
            True
        """
        options: dict[str, Any] = {name: getattr(spec, name) for name in ConvLSTMSpec.__dataclass_fields__}
        options |= {name: list(options[name]) for name in PER_LAYER}
        return cls(
            options.pop("in_channels"),
            options.pop("hidden_channels"),
            **options,
            dtype=dtype,
            param_dtype=param_dtype,
            generic=generic,
            checkpoint=checkpoint,
            rngs=rngs,
        )

    def __call__(
        self,
        x: ArrayLike | None,
        carry: State | None = None,
        *,
        steps: int | None = None,
        lengths: ArrayLike | Sequence[int] | None = None,
        mask: ArrayLike | None = None,
        durations: ArrayLike | None = None,
        gaps: ArrayLike | tuple[ArrayLike, ...] | None = None,
        rngs: RandomSource | None = None,
        dropout_masks: DropoutMasks | None = None,
    ) -> tuple[State, Any]:
        """Run the stack over a sequence.

        Args:
            x: (batch, time, *space, in_features), or without the batch axis. None in a layer without input
                (`in_features=0`), which needs `steps` and a carry.
            carry: State (h_0, c_0), tuples indexed layer · D + direction as returned; None means zeros.
            steps: Number of steps of a layer without input.
            lengths: Valid steps of each row, 0 to time; the rest is masked.
            mask: True where a step is valid (batch, time).
            durations: Δ of each step: a number, (time,), (batch, time) or (batch, time, 1).
            gaps: Time since the last valid frame (batch, time), one array per direction; for `memory_decay`.
            rngs: Source of random numbers in training: `nnx.Rngs` or a key; None takes the layer's own.
            dropout_masks: Dropout masks in place of new ones, from `sample_masks`: the same dropout over several
                calls, or one dropout over a sequence in parts.

        Returns:
            The carry State(h_n, c_n) and the outputs; with merge `separate` these are a tuple, forward first.

        Raises:
            ShapeError: naming the argument, its expected and received axes.
            StateError: if the carry does not fit the batch or the grid.
        """
        train = "Call `train()` before the call."
        check_use(dropout_masks, not self.deterministic, rngs is not None, "rngs", train)
        return functional.layer(
            self.spec,
            self.params,
            x,
            carry,
            steps=steps,
            lengths=lengths,
            mask=mask,
            durations=durations,
            gaps=gaps,
            key=self._key(rngs) if dropout_masks is None else None,
            dropout_masks=dropout_masks,
            dtype=self.dtype,
            generic=self.generic,
            checkpoint=self.checkpoint,
        )

    def sample_masks(
        self,
        x: ArrayLike | None,
        steps: int | None = None,
        *,
        carry: State | None = None,
        rngs: RandomSource | None = None,
    ) -> DropoutMasks:
        """Sample the dropout and zoneout masks of a sequence in training, to be passed to calls as `dropout_masks`.

        Masks of whole sequences are the same in all parts of the sequence; `masks[first:last]` cuts the others.

        Args:
            x: Frames as of a call, of which batch, size and type count. None in a layer without input, which needs
                `steps` and `carry`.
            steps: Number of steps of the whole sequence; None takes that of x.
            carry: Initial State(h_0, c_0) as of a call, of a layer without input.
            rngs: Source of random numbers: `nnx.Rngs` or a key; None takes the layer's own.

        Returns:
            The masks, per-step ones (batch, time, *grid, channels); without any mask for a layer without a random part.

        Example:
            >>> layer = ConvLSTM(1, 8, kernel_size=3, recurrent_dropout=0.2, zoneout_h=0.1, rngs=nnx.Rngs(0))
            >>> x = jnp.ones((2, 5, 8, 8, 1))
            >>> masks = layer.sample_masks(x)
            >>> _, whole = layer(x, dropout_masks=masks)
            >>> carry, first = layer(x[:, :3], dropout_masks=masks[:3])
            >>> _, second = layer(x[:, 3:], carry, dropout_masks=masks[3:])
            >>> bool(jnp.allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6))
            True
        """
        source = self.rngs if rngs is None else rngs
        key = one_key(source, "dropout") if self._is_random else jax.random.key(0)
        dtype = compute_type(self.params, x, self.dtype)
        return functional.sample_masks(self.spec, x, key, steps, carry=carry, dtype=dtype)
