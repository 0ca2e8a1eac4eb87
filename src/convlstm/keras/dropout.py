"""Sampling the dropout masks of a call in training, on the active backend's tensors."""

from __future__ import annotations

from typing import Any

import keras

from convlstm.frontend import dropout
from convlstm.frontend.dropout import DropoutMasks, MaskSpec
from convlstm.keras.engines import Tensor
from convlstm.keras.stack import Size, grids
from convlstm.spec.options import ConvLSTMSpec


def sample_masks(
    spec: ConvLSTMSpec, dtype: str, batch: Any, input_size: Size, steps: Any, generator: keras.random.SeedGenerator
) -> DropoutMasks | None:
    """Sample every mask of a call of this type, channels last, in a fixed order; None without a random part."""

    def sample(mask: MaskSpec) -> Tensor | None:
        if not mask.rate:
            return None
        random = keras.random.uniform(mask.shape, dtype="float32", seed=generator)
        if mask.is_factor:
            return keras.ops.cast(random >= mask.rate, dtype) / (1.0 - mask.rate)
        return keras.ops.cast(random < mask.rate, dtype)

    sizes = grids(spec, input_size) if spec.is_random else None
    return dropout.sample_masks(spec, batch, input_size, steps, sample, channels_last=True, grids=sizes)
