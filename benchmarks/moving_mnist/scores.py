"""Scores of forecast frames by their published definitions.

OpenSTL (`openstl/core/metrics.py`): MSE and MAE are sums over the pixels of a frame, averaged over frames and
sequences. SSIM and PSNR are averages over frames of forecasts that are limited to 0 to 1. Its version of scikit-image
takes the range of floating-point images as 2, from -1 to 1, so that `data_range` is 2 here.

Shi et al. (2015): the cross-entropy is a sum over the pixels and the 10 frames of a sequence, averaged over sequences.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

FRAME_SCORES = ("mse", "mae", "ssim", "psnr")
_LOWEST_ERROR = 1e-10  # mean squared error of a pixel, so that a perfect frame has 100 dB


def frame_scores(forecast: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Return each score of each frame (batch, frame); both arrays are (batch, frame, 1, height, width)."""
    error = forecast.astype(np.float64) - truth
    limited = np.clip(forecast, 0.0, 1.0).astype(np.float32)
    pixel_error = np.mean((limited.astype(np.float64) - truth) ** 2, axis=(2, 3, 4))
    similarity = [
        [structural_similarity(frame, true, data_range=2.0) for frame, true in zip(frames, trues, strict=True)]
        for frames, trues in zip(limited[:, :, 0], truth[:, :, 0], strict=True)
    ]
    return {
        "mse": np.sum(error**2, axis=(2, 3, 4)),
        "mae": np.sum(np.abs(error), axis=(2, 3, 4)),
        "ssim": np.array(similarity),
        "psnr": -10.0 * np.log10(np.maximum(pixel_error, _LOWEST_ERROR)),
    }


def cross_entropy(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return −Σ t·log p + (1 − t)·log(1 − p) of each sequence (batch), with p the sigmoid of the logits."""
    logits = logits.astype(np.float64)
    return np.sum(np.logaddexp(0.0, logits) - truth * logits, axis=(1, 2, 3, 4))


def lowest_cross_entropy(truth: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of a perfect forecast (batch), which is not 0 because of the grey pixels."""
    truth = truth.astype(np.float64)
    inner = np.clip(truth, 1e-12, 1.0 - 1e-12)
    return np.sum(-truth * np.log(inner) - (1.0 - truth) * np.log1p(-inner), axis=(1, 2, 3, 4))
