"""The matrices of Winograd's F(4, k) along one axis, which the engines of PyTorch and TensorFlow use.

Four rows of z = W ∗ h depend on k rows of W and n = k + 3 of h. As polynomials of the row they need n products in
place of 4·k, one at each of n points (Toom and Cook; Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308):

    z = Aᵀ [(G·W) ⊛ (B·h)]

G·W is the filter transform, B·h the input transform and Aᵀ[…] the output transform of Lavin and Gray.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

ROWS = 4
"""Rows of z per window of h."""
_POINTS = {3: (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2), 5: (0, 1 / 2, -1 / 2, 1, -1, 2, -2)}
"""Points of the polynomials, without infinity, by rows of W: the multiples of 1/8 with the least rounding."""
KERNELS = tuple(_POINTS)
"""Rows of W for which good points are known."""

Matrix = npt.NDArray[np.float64]


@cache
def transforms(rows: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A (n, 4), G (n, rows) and B (n, n); those of A and B are exact in float32 too."""
    points = np.array(_POINTS[rows], dtype=np.float64)
    others = [np.delete(points, number) for number in range(len(points))]
    scales = np.array([np.prod(point - rest) for point, rest in zip(points, others, strict=True)])
    b = np.zeros((len(points) + 1, len(points) + 1))
    for row, roots in zip(b, [*others, points], strict=True):
        row[: len(roots) + 1] = np.polynomial.polynomial.polyfromroots(roots)
    a, g = (np.vstack([np.vander(points, n, increasing=True), np.eye(n)[-1]]) for n in (ROWS, rows))
    g[:-1] /= scales[:, None]
    return a, g, b
