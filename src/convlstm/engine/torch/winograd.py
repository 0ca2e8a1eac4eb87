"""Convolutions with fewer products on a CPU: Winograd's F(4, k) along the first spatial axis.

Four rows of z = W ∗ h need k rows of W and n = k + 3 of h. Taken as polynomials of the row they need n products in
place of 4·k, one at each of n points (Toom and Cook; Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308):

    z = Aᵀ [(G·W) ⊛ (B·h)]

where ⊛ is, for each point by itself, a convolution along the other axis, which oneDNN computes. Along both axes it
would take fewer still, but rounding errors multiply: along one they are about three times those of the plain sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convlstm.engine.torch.buffers import empty
from convlstm.engine.torch.convolution import convolution_with_sum, packed
from convlstm.engine.torch.native import operators, put_channels_last
from convlstm.engine.torch.winograd_rule import NEAR, ROWS

_POINTS = {3: (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2), 5: (0, 1 / 2, -1 / 2, 1, -1, 2, -2)}
"""Where the polynomials are taken, by rows of W, beside infinity: of all eighths the choice that rounds least."""

Parts = Sequence[Tensor | None]


@cache
def transforms(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return A (n, 4), G (n, rows) and B (n, n) in float64; those of A and B are exact in float32 too.

    Example:
        >>> A, G, B = transforms(3)
        >>> w, h = torch.tensor([1, 10, 100]).double(), torch.arange(6).double()
        >>> (A.T @ ((G @ w) * (B @ h))).round()
        tensor([210., 321., 432., 543.], dtype=torch.float64)
    """
    points = np.array(_POINTS[rows], dtype=np.float64)
    others = [np.delete(points, number) for number in range(len(points))]
    scales = np.array([np.prod(point - rest) for point, rest in zip(points, others, strict=True)])
    b = np.zeros((len(points) + 1, len(points) + 1))
    for row, roots in zip(b, [*others, points], strict=True):
        row[: len(roots) + 1] = np.polynomial.polynomial.polyfromroots(roots)
    a, g = (np.vstack([np.vander(points, n, increasing=True), np.eye(n)[-1]]) for n in (ROWS, rows))
    g[:-1] /= scales[:, None]
    return torch.from_numpy(a), torch.from_numpy(g), torch.from_numpy(b)


@dataclass(frozen=True)
class Winograd:
    """One convolution of several inputs, z = Σ W_p ∗ x_p, and its gradients; an input of None is zero.

    Args:
        weights: W_p (out, in, *kernel) of each input, in float32.
        padding: Points around them, along each axis.
        samples: How many are taken together, so that the products stay near.
    """

    weights: Sequence[Tensor]
    padding: Sequence[int]
    samples: int
    _room: dict[str, Tensor] = field(default_factory=dict)
    _packed: dict[tuple[object, ...], list[Tensor]] = field(default_factory=dict)

    def add(self, z: Tensor, inputs: Parts) -> None:
        """Add to z (samples, out, *grid), channels last, in place."""
        kernels = self._kernels(z, inputs, turned=False)
        for part, *few in self._few_samples(z, inputs):
            at_points = self._at_points(part, few)
            products = self._take("products", (*at_points.shape[:4], part.shape[1])).zero_()
            _convolve(products, at_points, kernels, self.padding[1])
            self._add_rows(part, products)

    def go_back(self, of_z: Tensor, inputs: Parts = (), of_inputs: Parts = ()) -> None:
        """Go back from the gradient of z to those of the inputs, and of W if inputs are given.

        Args:
            of_z: Gradient of z.
            inputs: For the gradient of W, which is remembered.
            of_inputs: Gradients that are added to in place.
        """
        kernels = self._kernels(of_z, of_inputs, turned=True)
        for part, *few in self._few_samples(of_z, (*inputs, *of_inputs)):
            of_products = self._of_products(part)
            self._add_to_weight(of_products, part, few[: len(inputs)])
            self._add_to_inputs(of_products, few[len(inputs) :], kernels)

    def weight_gradients(self) -> list[Tensor]:
        """Return what `go_back` has found of the gradients of the weights; zeros where it was given no input."""
        return [torch.einsum("nr,noic->oirc", self._g, total) for total in self._of_kernels]

    def _add_to_weight(self, of_products: Tensor, of_z: Tensor, inputs: Parts) -> None:
        """Add to the gradients of the kernels at the points."""
        totals = [total for total, x in zip(self._of_kernels, inputs, strict=True) if x is not None] if inputs else []
        if not totals:
            return
        at_points = self._at_points(of_z, inputs)
        arguments = (None, [1, 1], [0, self.padding[1]], [1, 1], False, [0, 0], 1, (False, True, False))
        like = of_z.new_empty(of_products.shape[-1], 1, self._columns, at_points.shape[-1]).movedim(-1, 1)
        for number, pair in enumerate(zip(of_products.movedim(-1, 2), at_points.movedim(-1, 2), strict=True)):
            of_kernel = torch.ops.aten.convolution_backward(*pair, like, *arguments)[1].squeeze(2)
            parts = of_kernel.split([total.shape[2] for total in totals], dim=1)
            for total, values in zip(totals, parts, strict=True):
                total[number].add_(values)

    def _add_to_inputs(self, of_products: Tensor, of_inputs: Parts, kernels: Sequence[Tensor]) -> None:
        """Add to the gradients of the inputs that are there what the windows of each have; the products are spent."""
        found = [part for part in of_inputs if part is not None]
        if not found:
            return
        of_points = self._take("at_points", (*of_products.shape[:4], sum(part.shape[1] for part in found))).zero_()
        _convolve(of_points, of_products, kernels, self._columns - 1 - self.padding[1])
        self._add_inputs(found, of_points)

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
    def _of_kernels(self) -> list[Tensor]:
        """The gradients of G·W_p (n, out, in, columns), as far as they are found."""
        return [w.new_zeros(len(self._b), w.shape[0], w.shape[1], w.shape[3]) for w in self.weights]

    def _kernels(self, z: Tensor, inputs: Parts, *, turned: bool) -> list[Tensor]:
        """Return G·W for those inputs that are there, or turned round for their gradients, in oneDNN's own order."""
        key = (turned, *(x is not None for x in inputs))
        if any(key[1:]) and key not in self._packed:
            self._packed.clear()  # a sequence needs one after the other
            present = [weight for weight, x in zip(self.weights, inputs, strict=True) if x is not None]
            weight, padding = torch.cat(present, dim=1), self.padding[1]
            if turned:
                weight, padding = weight.flip(3).transpose(0, 1), weight.shape[3] - 1 - padding
            rows, shape = weight.movedim(2, 0).flatten(1), (*weight.shape[:2], 1, weight.shape[3])
            size = [min(len(z), self.samples), weight.shape[1], z.shape[2] // ROWS, z.shape[3]]
            widths = ((0, 0), (padding, padding))
            self._packed[key] = [packed((point @ rows).view(shape), size, widths) for point in self._g]
        return self._packed.get(key, [])

    def _few_samples(self, z: Tensor, others: Parts) -> Iterator[tuple[Any, ...]]:
        """Return each array by so few samples that the products stay near."""
        for start in range(0, len(z), self.samples):
            yield tuple(x if x is None else x[start : start + self.samples] for x in (z, *others))

    def _take(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return an array of undefined content; what was taken by this name before is lost."""
        size = prod(shape)
        if name not in self._room or len(self._room[name]) < size:
            # of one size, so that every layer finds the room of the one before; untouched memory takes no room
            like = self.weights[0]
            self._room[name] = empty((max(size, NEAR),), like, torch.contiguous_format, like.dtype)
        return self._room[name][:size].view(*shape)

    def _at_points(self, z: Tensor, inputs: Parts) -> Tensor:
        """Return B·x of those inputs that are there (points, samples, windows, columns, channels)."""
        found = [x for x in inputs if x is not None]
        samples, _, rows, columns = found[0].shape
        edge, sizes = self.padding[0], [x.shape[1] for x in found]
        padded = self._take("padded", (samples, rows + 2 * edge, columns, sum(sizes)))
        padded[:, :edge].zero_()
        padded[:, rows + edge :].zero_()
        inside = padded[:, edge : rows + edge].movedim(-1, 1)
        for part, x in zip(inside.split(sizes, dim=1), found, strict=True):
            part.copy_(x)
        at_points = self._take("at_points", (len(self._b), samples, z.shape[2] // ROWS, columns, sum(sizes)))
        for sample, of_sample in zip(padded.flatten(2), at_points.flatten(3).unbind(1), strict=True):
            windows = sample.unfold(0, len(self._b), ROWS).transpose(1, 2)
            torch.bmm(self._b.expand(len(windows), -1, -1), windows, out=of_sample.transpose(0, 1))
        return at_points

    def _of_products(self, of_z: Tensor) -> Tensor:
        """Return A·of_z, likewise."""
        samples, channels, rows, columns = of_z.shape
        of_products = self._take("products", (len(self._a), samples, rows // ROWS, columns, channels))
        out = of_products.view(len(of_products), samples * rows // ROWS, -1).transpose(0, 1)
        torch.bmm(self._a.expand(len(out), -1, -1), _rows(of_z), out=out)
        return of_products

    def _add_rows(self, z: Tensor, products: Tensor) -> None:
        """Add Aᵀ·products to z."""
        rows = _rows(z)
        back = self._a.T.expand(len(rows), -1, -1)
        torch.baddbmm(rows, back, products.view(len(products), len(rows), -1).transpose(0, 1), out=rows)

    def _add_inputs(self, of_inputs: Sequence[Tensor], of_points: Tensor) -> None:
        """Add Bᵀ·of_points to what each input has of them; the products are spent."""
        sizes, (_, samples, windows, columns, channels) = [part.shape[1] for part in of_inputs], of_points.shape
        of_windows = self._take("products", of_points.shape)
        torch.mm(self._b.T, of_points.view(len(of_points), -1), out=of_windows.view(len(of_points), -1))
        rows = ROWS * windows + len(self._b) - ROWS
        padded = self._take("padded", (samples, rows, columns, channels)).zero_()
        for number, values in enumerate(of_windows):
            padded[:, number : rows + number - len(self._b) + 1 : ROWS].add_(values)
        inside = padded[:, self.padding[0] : rows - self.padding[0]].movedim(-1, 1)
        for part, values in zip(of_inputs, inside.split(sizes, dim=1), strict=True):
            part.add_(values)


class NativeWinograd(Winograd):
    """The same, the way to the points and back by the operators of `convlstm-native`."""

    def _at_points(self, z: Tensor, inputs: Parts) -> Tensor:
        found = [x for x in inputs if x is not None]
        samples, _, rows, columns = found[0].shape
        channels = sum(x.shape[1] for x in found)
        at_points = self._take("at_points", (len(self._b), samples, rows // ROWS, columns, channels))
        for x, offset in _beside(found):
            operators().to_points(at_points, self._channels_last(x), self._b, self.padding[0], offset)
        return at_points

    def _of_products(self, of_z: Tensor) -> Tensor:
        samples, channels, rows, columns = of_z.shape
        of_products = self._take("products", (len(self._a), samples, rows // ROWS, columns, channels))
        operators().to_points(of_products, of_z, self._a, 0, 0)
        return of_products

    def _add_rows(self, z: Tensor, products: Tensor) -> None:
        operators().from_points(z, products, self._a, 0, 0)

    def _add_inputs(self, of_inputs: Sequence[Tensor], of_points: Tensor) -> None:
        for part, offset in _beside(of_inputs):
            operators().from_points(part, of_points, self._b, self.padding[0], offset)

    def _channels_last(self, x: Tensor) -> Tensor:
        if x.stride(1) == 1:
            return x
        samples, channels, rows, columns = x.shape
        in_order = self._take("padded", (samples, rows, columns, channels)).movedim(-1, 1)
        put_channels_last(in_order, x)
        return in_order


def _beside(arrays: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Return each array with the channel at which it begins where all stand side by side."""
    return zip(arrays, accumulate((x.shape[1] for x in arrays), initial=0), strict=False)


def _rows(z: Tensor) -> Tensor:
    """Return a view that shows the rows of each window (samples · windows, 4, columns · channels)."""
    samples, channels, rows, columns = z.shape
    return z.movedim(1, -1).view(samples * rows // ROWS, ROWS, columns * channels)


def _convolve(results: Tensor, inputs: Tensor, kernels: Sequence[Tensor], padding: int) -> None:
    """Add at each point the convolution along the columns."""
    for z, x, kernel in zip(results, inputs, kernels, strict=True):
        convolution_with_sum(z.movedim(-1, 1), x.movedim(-1, 1), kernel, None, [0, padding], [1, 1], [1, 1])
