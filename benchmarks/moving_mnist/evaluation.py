"""Test a model on sequences, with two forecasts that need no training."""

from __future__ import annotations

import numpy as np

from benchmarks.moving_mnist.generator import FRAMES, Sequences
from benchmarks.moving_mnist.protocols import INPUTS
from benchmarks.moving_mnist.scores import cross_entropy, frame_scores, lowest_cross_entropy
from benchmarks.moving_mnist.training import Training


def evaluate(training: Training, sequences: Sequences, known: Sequences, count: int) -> dict:
    """Return the scores of the model, of the last frame repeated, and of the mean frame of training sequences."""
    logits_given = training.protocol.loss == "cross_entropy"
    mean_frame = known.batch(range(256))[:, INPUTS:].mean(axis=(0, 1))
    mean_logits = np.log((mean_frame + 1e-6) / (1.0 - mean_frame + 1e-6))
    collected: dict[str, list[dict[str, np.ndarray]]] = {"model": [], "last_frame": [], "mean_frame": []}
    for numbers in chunks(count, training.protocol.batch_size):
        frames = sequences.batch(numbers)
        truth = frames[:, INPUTS:]
        output = training.forecast(frames[:, :INPUTS], truth.shape[1])
        forecast = 1.0 / (1.0 + np.exp(-output.astype(np.float64))) if logits_given else output
        forecasts = {
            "model": forecast,
            "last_frame": np.broadcast_to(frames[:, INPUTS - 1 : INPUTS], truth.shape),
            "mean_frame": np.broadcast_to(mean_frame, truth.shape),
        }
        for name, values in forecasts.items():
            collected[name].append(frame_scores(values, truth))
        if logits_given:
            collected["model"][-1]["cross_entropy"] = cross_entropy(output, truth)
            collected["model"][-1]["lowest_cross_entropy"] = lowest_cross_entropy(truth)
            collected["mean_frame"][-1]["cross_entropy"] = cross_entropy(
                np.broadcast_to(mean_logits, truth.shape), truth
            )
    return {"sequences": count} | {name: summary(scores) for name, scores in collected.items()}


def summary(batches: list[dict[str, np.ndarray]]) -> dict:
    """Return the mean of each score, and MSE by forecast frame."""
    joined = {name: np.concatenate([scores[name] for scores in batches]) for name in batches[0]}
    means = {name: float(values.mean()) for name, values in joined.items()}
    if "cross_entropy" in means:
        means["cross_entropy_per_frame"] = means["cross_entropy"] / (FRAMES - INPUTS)
    return means | {"mse_by_frame": joined["mse"].mean(axis=0).round(3).tolist()}


def mean_cross_entropy(training: Training, sequences: Sequences, count: int) -> float:
    """Return the mean cross-entropy of the first `count` sequences."""
    losses = []
    for numbers in chunks(count, training.protocol.batch_size):
        frames = sequences.batch(numbers)
        losses.append(cross_entropy(training.forecast(frames[:, :INPUTS], FRAMES - INPUTS), frames[:, INPUTS:]))
    return float(np.concatenate(losses).mean())


def chunks(count: int, size: int) -> list[range]:
    """Return the numbers below `count` in ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
