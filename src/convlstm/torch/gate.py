"""The four gates of a step as a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convlstm.engine.torch import recurrence as engine
from convlstm.engine.torch.activations import ACTIVATION_FUNCTIONS
from convlstm.errors import SpecError
from convlstm.frontend.arguments import check_has_input, layer_spec
from convlstm.spec import parsing
from convlstm.spec.types import LayerSizes
from convlstm.torch import inputs
from convlstm.torch.attributes import CellAttributes
from convlstm.torch.module import SpecModule

_OPTIONS = (
    *("stride", "padding", "dilation", "groups", "bias", "forget_bias", "norm", "norm_groups", "boundary", "peephole"),
    *("recurrent_kernel_size", "recurrent_dilation", "activation", "recurrent_activation", "spatial_dims"),
)


class ConvGate(SpecModule, CellAttributes):
    """The four gates of a step as a module: input and recurrent convolution, bias, activation.

        i, f, o = σ(W_ih ∗ x + W_hh ∗ h + b),   g = tanh(W_ih ∗ x + W_hh ∗ h + b)

    Args:
        in_channels: Channels of the frame.
        hidden_channels: Channels of h.
        kernel_size: Kernel of both convolutions.
        dtype: As in every PyTorch module.
        device: As in every PyTorch module.
        **options: Options of `ConvLSTMCell` that act inside the gates: stride, padding, dilation, groups, bias, norm,
            boundary, activations.

    Shapes:
        x: (batch, in_channels, height, width), or both without a batch axis
        h: (batch, hidden_channels, *grid)
        returns: i, f, g, o, each as h

    Example:
        >>> import torch
        >>> gate = ConvGate(1, 8, kernel_size=3, padding=1)
        >>> i, f, g, o = gate(torch.zeros(2, 1, 16, 16), torch.zeros(2, 8, 16, 16))
        >>> tuple(i.shape), f.mean()
        ((2, 8, 16, 16), tensor(0.7311, grad_fn=<MeanBackward0>))
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: LayerSizes,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        parsing.check_options(options, _OPTIONS)
        spec = layer_spec(in_channels, hidden_channels, kernel_size, 1, options)
        check_has_input(spec, "ConvGate")
        if spec.peephole != "none":
            raise SpecError(
                "peephole",
                expected="none in ConvGate, which does not see c",
                received=spec.peephole,
                hint="Use `ConvLSTMCell`.",
            )
        super().__init__(spec, device=device, dtype=dtype)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the activated gates i, f, g, o."""
        weights, spec = self.layer_weights(), self.spec
        batched = inputs.check_frame(spec, x, weights["weight_hh"])
        inputs.check_tensor("h", h, weights["weight_hh"])
        if not batched:
            i, f, g, o = self(x.unsqueeze(0), h.unsqueeze(0))
            return i.squeeze(0), f.squeeze(0), g.squeeze(0), o.squeeze(0)
        (state,) = self._states((h, h), inputs.CallReader(x, x.shape[0]), batched=True, cell=True)
        h = h if state is None else state[0]
        z = engine.gates(spec.layers[0], weights, engine.input_convolution(spec.layers[0], weights, x), h)
        sigma, phi = ACTIVATION_FUNCTIONS[spec.recurrent_activation], ACTIVATION_FUNCTIONS[spec.activation]
        z_i, z_f, z_g, z_o = z.chunk(4, dim=1)
        return sigma(z_i), sigma(z_f), phi(z_g), sigma(z_o)
