"""Compare the memory estimate of `convlstm inspect` with the measured peak of a new process.

    python benchmarks/inspect_memory.py [CASE ...]

Each case runs in its own process. It imports PyTorch, trains a tiny layer for one step so that all code is loaded, and
records its resident memory. Then it creates the model, optimiser and frames, and runs two training steps (forward, mean
square, backward, AdamW), or two forward passes. "Measured" is the peak (ru_maxrss) minus the recorded memory. It is
measured twice: with MALLOC_MMAP_THRESHOLD_=131072, with which glibc returns freed arrays to the system, and with
glibc's default.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from convlstm.cost.memory import checkpointed_memory, forward_memory, training_memory
from convlstm.cost.workload import Workload
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import Spec

STEPS = 2
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Case:
    spec: Spec
    workload: Workload
    segment: int = 0  # steps of a checkpointed segment
    training: bool = True


def layer(
    channels: int, hidden: int | list[int], shape: tuple[int, ...], batch: int, *, precision: str = "float32", **o: Any
) -> Case:
    options = {"kernel_size": 3, "spatial_dims": len(shape) - 1} | o
    spec = ConvLSTMSpec(in_channels=channels, hidden_channels=hidden, **options)
    return Case(spec, Workload(shape=(shape[0], channels, *shape[1:]), batch=batch, precision=precision))


def forecaster(
    hidden: list[int], steps: int, horizon: int, side: int, batch: int, *, precision: str = "float32", **o: Any
) -> Case:
    encoder_options = {field.name for field in fields(ConvLSTMSpec)}
    head = {name: o.pop(name) for name in list(o) if name not in encoder_options}
    stack = ConvLSTMSpec(in_channels=16, hidden_channels=hidden, **({"kernel_size": 3} | o))
    work = Workload(shape=(steps, 1, side, side), batch=batch, horizon=horizon, precision=precision)
    return Case(ForecasterSpec(encoder=stack, patch_size=4, **head), work)


CASES = {
    "wide, batch 2": layer(64, 64, (10, 64, 64), 2),
    "wide, batch 8": layer(64, 64, (10, 64, 64), 8),
    "wide, batch 4, bfloat16": layer(64, 64, (10, 64, 64), 4, precision="bfloat16"),
    "small, 16 → 16, 32×32": layer(16, 16, (10, 32, 32), 8),
    "first layer, 1 → 64": layer(1, 64, (10, 64, 64), 2),
    "small grid, 2 × 256, 5×5": layer(256, [256, 256], (6, 16, 16), 4, kernel_size=5),
    "peephole, no bias, 2 × 32": layer(16, [32, 32], (8, 96, 96), 2, peephole="channel", bias=False),
    "bidirectional, 2 × 32": layer(32, [32, 32], (10, 64, 64), 2, direction="bidirectional"),
    "stride 2, kernel 4": layer(16, [32, 64], (10, 128, 128), 2, kernel_size=[(3, 3), (4, 4)], stride=[(1, 1), (2, 2)]),
    "1-D": layer(64, 64, (10, 4096), 2),
    "3-D": layer(64, 64, (10, 16, 16, 16), 2),
    "norm (generic implementation)": layer(32, [32, 32], (8, 64, 64), 2, norm="layer"),
    "durations, zoneout (generic implementation)": layer(
        32, [32, 32], (8, 64, 64), 2, duration_strategy="mlp", zoneout_h=0.1, zoneout_c=0.1
    ),
    "forecaster, 96×96, batch 8": forecaster([48, 48], 6, 12, 96, 8, residual=True),
    "forecaster, 128×128, batch 4": forecaster([48, 48], 6, 12, 128, 4, residual=True),
    "forecaster, 128×128, batch 8, bfloat16": forecaster([48, 48], 6, 12, 128, 8, precision="bfloat16"),
    "Shi 2015, 128-64-64, batch 8": forecaster(
        [128, 64, 64], 10, 10, 64, 8, kernel_size=5, peephole="channel", output_activation="sigmoid"
    ),
    "forecaster, recurrent dropout (generic implementation)": forecaster([48, 48], 6, 12, 96, 8, recurrent_dropout=0.1),
    "forecaster, feedback": forecaster([48, 48], 6, 12, 96, 4, rollout="feedback"),
    "forecaster, detail of 24, 96×96, batch 4": forecaster([48, 48], 6, 12, 96, 4, detail_channels=24, detail_frames=4),
    "forecaster, detail of 8, 3 thresholds, batch 8": forecaster(
        [32, 32], 6, 12, 96, 8, detail_channels=8, detail_frames=4, thresholds=(0.1, 1.0, 5.0)
    ),
    "forecaster, detail of 24, 96×96, batch 4, bfloat16": forecaster(
        [48, 48], 6, 12, 96, 4, precision="bfloat16", detail_channels=24, detail_frames=4
    ),
    "forecaster, detail of 64 for 2 frames, batch 8": forecaster(
        [48, 48], 6, 2, 96, 8, detail_channels=64, detail_kernel=5
    ),
    "checkpoint of 8 of 64 steps": replace(layer(32, 32, (64, 64, 64), 2), segment=8),
    "checkpoint of 6 of 36 steps, 2 × 32": replace(layer(16, [32, 32], (36, 64, 64), 2), segment=6),
    "forward only, wide, batch 8": replace(layer(64, 64, (10, 64, 64), 8), training=False),
    "forward only, forecaster, 128×128, batch 8": replace(forecaster([48, 48], 6, 12, 128, 8), training=False),
    "forward only, forecaster, detail of 24, batch 4": replace(
        forecaster([48, 48], 6, 12, 96, 4, detail_channels=24, detail_frames=4), training=False
    ),
}


def main(names: list[str]) -> None:
    print("| case | estimate, MB | measured, MB | ratio | default malloc, MB |\n|---|---|---|---|---|")
    for name in names or CASES:
        estimate = estimated(CASES[name])
        measured = measure_in_process(name, {"MALLOC_MMAP_THRESHOLD_": "131072"})
        default = measure_in_process(name, {})
        sizes = [f"{size / 1e6:.0f}" for size in (estimate, measured, default)]
        print(f"| {name} | {sizes[0]} | {sizes[1]} | {estimate / measured:.2f} | {sizes[2]} |", flush=True)


def estimated(case: Case) -> int:
    if not case.training:
        return forward_memory(case.spec, case.workload)
    if case.segment:
        assert isinstance(case.spec, ConvLSTMSpec)
        return checkpointed_memory(case.spec, case.workload, case.segment)
    return training_memory(case.spec, case.workload)


def measure_in_process(name: str, environment: dict[str, str]) -> int:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def measure(case: Case) -> int:
    import torch

    torch.set_num_threads(1)  # memory hardly depends on threads, and two are slow on a busy machine
    run(Case(ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=3), Workload(shape=(2, 1, 4, 4))))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run(case)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT - before


def run(case: Case) -> None:
    import torch

    from convlstm.torch import ConvLSTM, Forecaster

    spec, workload = case.spec, case.workload
    is_layer = isinstance(spec, ConvLSTMSpec)
    model = ConvLSTM.from_spec(spec) if is_layer else Forecaster(spec)
    if case.segment:
        model.checkpoint = case.segment
    optimiser = torch.optim.AdamW(model.parameters())
    frames = torch.randn(workload.batch, *workload.shape)
    has_durations = (spec if is_layer else spec.encoder).duration_strategy != "none"

    def forward() -> torch.Tensor:
        if is_layer:
            return model(frames, durations=1.0 if has_durations else None)[0]
        return model(frames, workload.horizon)

    for _ in range(STEPS):
        if not case.training:
            with torch.no_grad():
                forward()
            continue
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=workload.precision == "bfloat16"):
            output = forward()
            loss = output.float().square().mean()
        del output
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(measure(CASES[sys.argv[2]]))
    else:
        main(sys.argv[1:])
