"""Convolutions with fewer products on a CPU: Winograd's F(4, k) along the first spatial axis.

The algorithm and its matrices are those of `convlstm.engine.winograd`:

    z = Aᵀ [(G·W) ⊛ (B·h)]

G·W is the filter transform, B·h the input transform and Aᵀ[…] the output transform of Lavin and Gray; ⊛ is, at each
point, a convolution along the other axis, which oneDNN computes. Transforms along both axes would save more products,
but rounding errors multiply: along one axis they are about three times those of direct convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from convlstm.engine import winograd
from convlstm.engine.torch.buffers import empty
from convlstm.engine.torch.convolution import convolution_with_sum, prepack
from convlstm.engine.torch.fixed_weights import are_fixed, cached
from convlstm.engine.torch.native import add_transposed_rows, put_channels_last, transform_rows
from convlstm.engine.torch.winograd_rule import PRODUCT_VALUES, ROWS

Inputs = Sequence[Tensor | None]


@cache
def transforms(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return A (n, 4), G (n, rows) and B (n, n) in float64."""
    a, g, b = (torch.from_numpy(matrix) for matrix in winograd.transforms(rows))
    return a, g, b


@dataclass(frozen=True)
class Winograd:
    """One convolution of several inputs in float32, z = Σ W_p ∗ x_p, and its gradients; an input of None is zero.

    `samples` are computed at a time, so that the products stay in the cache.
    """

    weights: Sequence[Tensor]
    padding: Sequence[int]
    samples: int
    _buffers: dict[str, Tensor] = field(default_factory=dict)
    _packed: dict[tuple[object, ...], list[Tensor]] = field(default_factory=dict)

    def add(self, z: Tensor, inputs: Inputs) -> None:
        """Add the convolution to z (samples, out, *grid), channels last, in place."""
        kernels = self._filter_transform(z, inputs, flipped=False)
        for z_part, *input_parts in self._few_samples(z, inputs):
            transformed = self._input_transform(z_part, input_parts)
            products = self._buffer("products", (*transformed.shape[:4], z_part.shape[1])).zero_()
            _convolve(products, transformed, kernels, self.padding[1])
            self._output_transform(z_part, products)

    def backward(self, dz: Tensor, inputs: Inputs = (), d_inputs: Inputs = ()) -> None:
        """Add the gradients that follow from dz: to `d_inputs`, and for `inputs` to those of `weight_gradients`."""
        kernels = self._filter_transform(dz, d_inputs, flipped=True)
        for dz_part, *parts in self._few_samples(dz, (*inputs, *d_inputs)):
            d_products = self._output_transform_gradient(dz_part)
            self._add_filter_gradients(d_products, dz_part, parts[: len(inputs)])
            self._add_input_gradients(d_products, parts[len(inputs) :], kernels)

    def weight_gradients(self) -> list[Tensor]:
        """Return the gradients of the weights from all calls of `backward`; zeros for an input that was None."""
        return [torch.einsum("nr,noic->oirc", self._g, gradient) for gradient in self._d_filters]

    def _add_filter_gradients(self, d_products: Tensor, dz: Tensor, inputs: Inputs) -> None:
        """Add to the gradients of the transformed filters."""
        if all(x is None for x in inputs):
            return
        totals = [total for total, x in zip(self._d_filters, inputs, strict=True) if x is not None]
        transformed = self._input_transform(dz, inputs)
        arguments = (None, [1, 1], [0, self.padding[1]], [1, 1], False, [0, 0], 1, (False, True, False))
        like = dz.new_empty(d_products.shape[-1], 1, self._columns, transformed.shape[-1]).movedim(-1, 1)
        for point, pair in enumerate(zip(d_products.movedim(-1, 2), transformed.movedim(-1, 2), strict=True)):
            d_filter = torch.ops.aten.convolution_backward(*pair, like, *arguments)[1].squeeze(2)
            d_filters = d_filter.split([total.shape[2] for total in totals], dim=1)
            for total, gradient in zip(totals, d_filters, strict=True):
                total[point].add_(gradient)

    def _add_input_gradients(self, d_products: Tensor, d_inputs: Inputs, kernels: Sequence[Tensor]) -> None:
        """Add to the gradients of those inputs that are not None; overwrites the products."""
        present = [dx for dx in d_inputs if dx is not None]
        if not present:
            return
        shape = (*d_products.shape[:4], sum(dx.shape[1] for dx in present))
        d_transformed = self._buffer("transformed", shape).zero_()
        _convolve(d_transformed, d_products, kernels, self._columns - 1 - self.padding[1])
        self._input_transform_gradient(present, d_transformed)

    @property
    def _columns(self) -> int:
        return self.weights[0].shape[3]

    @cached_property
    def _a(self) -> Tensor:
        return transforms(self.weights[0].shape[2])[0].float()

    @cached_property
    def _g(self) -> Tensor:
        return transforms(self.weights[0].shape[2])[1].float()

    @cached_property
    def _b(self) -> Tensor:
        return transforms(self.weights[0].shape[2])[2].float()

    @cached_property
    def _d_filters(self) -> list[Tensor]:
        """The gradients of G·W_p (n, out, in, columns), summed over the calls of `backward`."""
        return [w.new_zeros(len(self._b), w.shape[0], w.shape[1], w.shape[3]) for w in self.weights]

    def _filter_transform(self, z: Tensor, inputs: Inputs, *, flipped: bool) -> list[Tensor]:
        """Return G·W of those inputs that are not None, flipped for their gradients, in oneDNN's own layout."""
        key = (flipped, *(x is not None for x in inputs))
        if any(key[1:]) and key not in self._packed:
            self._packed.clear()  # a sequence needs one of them at a time
            present = [weight for weight, x in zip(self.weights, inputs, strict=True) if x is not None]
            size = (min(len(z), self.samples), z.shape[2] // ROWS, z.shape[3])
            if not flipped and are_fixed(present):
                fixed_key = ("Winograd", *size, self.padding[1])
                self._packed[key] = cached(
                    present, fixed_key, lambda: self._packed_filters(present, size, flipped=False)
                )
            else:
                self._packed[key] = self._packed_filters(present, size, flipped=flipped)
        return self._packed.get(key, [])

    def _packed_filters(self, weights: Sequence[Tensor], size: tuple[int, int, int], *, flipped: bool) -> list[Tensor]:
        """Return the filter transforms at each point, for samples, windows and columns of this number."""
        weight, padding = torch.cat(list(weights), dim=1), self.padding[1]
        if flipped:
            weight, padding = weight.flip(3).transpose(0, 1), weight.shape[3] - 1 - padding
        rows, shape = weight.movedim(2, 0).flatten(1), (*weight.shape[:2], 1, weight.shape[3])
        samples, windows, columns = size
        inputs, widths = (samples, weight.shape[1], windows, columns), ((0, 0), (padding, padding))
        return [prepack((point @ rows).view(shape), inputs, widths) for point in self._g]

    def _few_samples(self, z: Tensor, others: Inputs) -> Iterator[tuple[Any, ...]]:
        """Yield a few samples of each array at a time, so that the products stay in the cache."""
        for start in range(0, len(z), self.samples):
            yield tuple(x if x is None else x[start : start + self.samples] for x in (z, *others))

    def _buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return an array of undefined content; it overwrites the one that had this name before."""
        size = prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < size:
            # of one size, so that a layer reuses the memory of the previous one; untouched pages cost no memory
            like = self.weights[0]
            self._buffers[name] = empty((max(size, PRODUCT_VALUES),), like, torch.contiguous_format, like.dtype)
        return self._buffers[name][:size].view(*shape)

    def _input_transform(self, z: Tensor, inputs: Inputs) -> Tensor:
        """Return B·x of those inputs that are not None (points, samples, windows, columns, channels)."""
        present = [x for x in inputs if x is not None]
        samples, _, rows, columns = present[0].shape
        edge, sizes = self.padding[0], [x.shape[1] for x in present]
        padded = self._buffer("padded", (samples, rows + 2 * edge, columns, sum(sizes)))
        padded[:, :edge].zero_()
        padded[:, rows + edge :].zero_()
        inside = padded[:, edge : rows + edge].movedim(-1, 1)
        for target, x in zip(inside.split(sizes, dim=1), present, strict=True):
            target.copy_(x)
        transformed = self._buffer("transformed", (len(self._b), samples, z.shape[2] // ROWS, columns, sum(sizes)))
        for sample, out in zip(padded.flatten(2), transformed.flatten(3).unbind(1), strict=True):
            windows = sample.unfold(0, len(self._b), ROWS).transpose(1, 2)
            torch.bmm(self._b.expand(len(windows), -1, -1), windows, out=out.transpose(0, 1))
        return transformed

    def _output_transform_gradient(self, dz: Tensor) -> Tensor:
        """Return A·dz (points, samples, windows, columns, channels)."""
        samples, channels, rows, columns = dz.shape
        d_products = self._buffer("products", (len(self._a), samples, rows // ROWS, columns, channels))
        out = d_products.view(len(d_products), samples * rows // ROWS, -1).transpose(0, 1)
        torch.bmm(self._a.expand(len(out), -1, -1), _rows(dz), out=out)
        return d_products

    def _output_transform(self, z: Tensor, products: Tensor) -> None:
        """Add Aᵀ·products to z."""
        rows = _rows(z)
        transform = self._a.T.expand(len(rows), -1, -1)
        torch.baddbmm(rows, transform, products.view(len(products), len(rows), -1).transpose(0, 1), out=rows)

    def _input_transform_gradient(self, d_inputs: Sequence[Tensor], d_transformed: Tensor) -> None:
        """Add Bᵀ·d_transformed to the gradients of the inputs; overwrites the products."""
        _, samples, windows, columns, channels = d_transformed.shape
        points = len(d_transformed)
        d_windows = self._buffer("products", d_transformed.shape)
        torch.mm(self._b.T, d_transformed.view(points, -1), out=d_windows.view(points, -1))
        rows = ROWS * windows + points - ROWS
        padded = self._buffer("padded", (samples, rows, columns, channels)).zero_()
        for row, gradient in enumerate(d_windows):
            padded[:, row : rows + row - points + 1 : ROWS].add_(gradient)
        inside = padded[:, self.padding[0] : rows - self.padding[0]].movedim(-1, 1)
        for dx, gradient in zip(d_inputs, inside.split([dx.shape[1] for dx in d_inputs], dim=1), strict=True):
            dx.add_(gradient)


class NativeWinograd(Winograd):
    """Winograd's convolution whose transforms are the operators of `convlstm-native`."""

    def _input_transform(self, z: Tensor, inputs: Inputs) -> Tensor:
        present = [x for x in inputs if x is not None]
        samples, _, rows, columns = present[0].shape
        channels = sum(x.shape[1] for x in present)
        transformed = self._buffer("transformed", (len(self._b), samples, rows // ROWS, columns, channels))
        for x, first_channel in _with_first_channels(present):
            transform_rows(transformed, self._channels_last(x), self._b, self.padding[0], first_channel)
        return transformed

    def _output_transform_gradient(self, dz: Tensor) -> Tensor:
        samples, channels, rows, columns = dz.shape
        d_products = self._buffer("products", (len(self._a), samples, rows // ROWS, columns, channels))
        transform_rows(d_products, dz, self._a, 0, 0)
        return d_products

    def _output_transform(self, z: Tensor, products: Tensor) -> None:
        add_transposed_rows(z, products, self._a, 0, 0)

    def _input_transform_gradient(self, d_inputs: Sequence[Tensor], d_transformed: Tensor) -> None:
        for dx, first_channel in _with_first_channels(d_inputs):
            add_transposed_rows(dx, d_transformed, self._b, self.padding[0], first_channel)

    def _channels_last(self, x: Tensor) -> Tensor:
        if x.stride(1) == 1:
            return x
        samples, channels, rows, columns = x.shape
        channels_last = self._buffer("padded", (samples, rows, columns, channels)).movedim(-1, 1)
        put_channels_last(channels_last, x)
        return channels_last


def _with_first_channels(arrays: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Return each array with its first channel in the concatenation of all."""
    return zip(arrays, accumulate((x.shape[1] for x in arrays), initial=0), strict=False)


def _rows(z: Tensor) -> Tensor:
    """Return the rows of each window as a view (samples · windows, 4, columns · channels)."""
    samples, channels, rows, columns = z.shape
    return z.movedim(1, -1).view(samples * rows // ROWS, ROWS, columns * channels)


def _convolve(results: Tensor, inputs: Tensor, kernels: Sequence[Tensor], padding: int) -> None:
    """Add the convolution along the columns at each point."""
    for z, x, kernel in zip(results, inputs, kernels, strict=True):
        convolution_with_sum(z.movedim(-1, 1), x.movedim(-1, 1), kernel, None, [0, padding], [1, 1], [1, 1])
