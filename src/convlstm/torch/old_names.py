"""Loading the `state_dict` of another implementation into the layers that are used in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from convlstm.interop.ndrplz import NDRPLZ
from convlstm.spec.choices import GATES
from convlstm.torch.module import SpecModule


class LoadsFusedConvolutions(SpecModule):
    """A module whose `load_state_dict` also takes one convolution over [x; h] per layer, with the gates i, f, o, g.

    W = [W_ih W_hh] of `cell_list.0.conv.weight` becomes `weight_ih_l0` and `weight_hh_l0`. Missing, unknown and
    misshapen arrays are reported as PyTorch reports them, also within a larger model.
    """

    @classmethod
    def old_name(cls, index: int) -> str:
        """Return the name of the convolution of a layer."""
        raise NotImplementedError

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        renamed, misshapen = dict(state_dict), set()
        for layer in self.spec.layers:
            names = self._names[layer.index, self.spec.directions[0]]
            for old, parts in (("weight", ("weight_ih", "weight_hh")), ("bias", ("bias",))):
                key = f"{prefix}{self.old_name(layer.index)}.{old}"
                new = [names[part] for part in parts if part in names]
                # a parametrisation, or a checkpoint with both names, is left to PyTorch
                if key not in renamed or len(new) < len(parts) or not self._can_take(new, prefix, renamed):
                    continue
                array = renamed.pop(key)
                expected = self._fused_shape(new)
                if tuple(array.shape) == expected:
                    gates = _in_our_order(array)
                    inputs = self._parameters[new[0]].shape[1] if old == "weight" else 0  # type: ignore[union-attr]
                    split = (gates[:, :inputs], gates[:, inputs:]) if old == "weight" else (gates,)
                    renamed.update({prefix + name: part.contiguous() for name, part in zip(new, split, strict=True)})
                else:
                    misshapen |= {prefix + name for name in new}
                    error_msgs.append(
                        f"size mismatch for {key}: copying a param with shape {tuple(array.shape)} from checkpoint, "
                        f"the shape in current model is {expected}."
                    )
        super()._load_from_state_dict(
            renamed, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing_keys[:] = [key for key in missing_keys if key not in misshapen]

    def _can_take(self, names: list[str], prefix: str, state_dict: Mapping[str, Any]) -> bool:
        return all(self._parameters.get(name) is not None and prefix + name not in state_dict for name in names)

    def _fused_shape(self, names: list[str]) -> tuple[int, ...]:
        """Return the shape of the array that holds these parameters, side by side along the input channels."""
        first, *rest = (tuple(self._parameters[name].shape) for name in names)  # type: ignore[union-attr]
        return (first[0], first[1] + rest[0][1], *first[2:]) if rest else first


def _in_our_order(array: Tensor) -> Tensor:
    order = [NDRPLZ.gates.index(gate) for gate in GATES]
    gates: Tensor = array.unflatten(0, (len(order), -1))
    return gates[order].flatten(0, 1)
