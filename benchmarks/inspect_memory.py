"""Training memory: what `convlstm inspect` says beside what a fresh process takes.

    python benchmarks/inspect_memory.py [CASE ...]

Each case runs in a process of its own: it imports PyTorch, takes one step with a tiny layer so that all code is
loaded, notes its resident memory, makes model, optimiser and frames, takes two training steps (forward, mean square,
backward, AdamW; from the second on the moments are there), and reads its peak (ru_maxrss). Measured is the difference.
It is done twice: with glibc's malloc as it comes, and with MALLOC_MMAP_THRESHOLD_=131072, which is glibc's own start
value, kept from growing: then freed arrays go back to the system, and the peak is what the program really holds.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlstm.cost.operations import model_cost
from convlstm.cost.workload import Workload
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.stack import ConvLSTMSpec
from convlstm.weights.canonical import Spec

STEPS = 2
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Case:
    spec: Spec
    workload: Workload


def layer(
    channels: int, hidden: int | list[int], shape: tuple[int, ...], batch: int, *, precision: str = "float32", **o: Any
) -> Case:
    options = {"kernel_size": 3, "spatial_dims": len(shape) - 1} | o
    spec = ConvLSTMSpec(in_channels=channels, hidden_channels=hidden, **options)
    return Case(spec, Workload(shape=(shape[0], channels, *shape[1:]), batch=batch, precision=precision))


def forecaster(
    hidden: list[int], steps: int, horizon: int, side: int, batch: int, *, precision: str = "float32", **o: Any
) -> Case:
    own = {name: o.pop(name) for name in ("rollout", "residual", "output_activation") if name in o}
    stack = ConvLSTMSpec(in_channels=16, hidden_channels=hidden, **({"kernel_size": 3} | o))
    work = Workload(shape=(steps, 1, side, side), batch=batch, horizon=horizon, precision=precision)
    return Case(ForecasterSpec(encoder=stack, patch_size=4, **own), work)


CASES = {
    "wide, batch 2": layer(64, 64, (10, 64, 64), 2),
    "wide, batch 8": layer(64, 64, (10, 64, 64), 8),
    "wide, batch 4, bfloat16": layer(64, 64, (10, 64, 64), 4, precision="bfloat16"),
    "first layer, 1 → 64": layer(1, 64, (10, 64, 64), 2),
    "small grid, 2 × 256, 5×5": layer(256, [256, 256], (6, 16, 16), 4, kernel_size=5),
    "peephole, no bias, 2 × 32": layer(16, [32, 32], (8, 96, 96), 2, peephole="channel", bias=False),
    "bidirectional, 2 × 32": layer(32, [32, 32], (10, 64, 64), 2, direction="bidirectional"),
    "stride 2, kernel 4": layer(16, [32, 64], (10, 128, 128), 2, kernel_size=[(3, 3), (4, 4)], stride=[(1, 1), (2, 2)]),
    "1-D": layer(64, 64, (10, 4096), 2),
    "3-D": layer(64, 64, (10, 16, 16, 16), 2),
    "norm (plain path)": layer(32, [32, 32], (8, 64, 64), 2, norm="layer"),
    "durations, zoneout (plain path)": layer(
        32, [32, 32], (8, 64, 64), 2, duration_strategy="mlp", zoneout_h=0.1, zoneout_c=0.1
    ),
    "forecaster, 96×96, batch 8": forecaster([48, 48], 6, 12, 96, 8, residual=True),
    "forecaster, 128×128, batch 4": forecaster([48, 48], 6, 12, 128, 4, residual=True),
    "forecaster, 128×128, batch 8, bfloat16": forecaster([48, 48], 6, 12, 128, 8, precision="bfloat16"),
    "Shi 2015, 128-64-64, batch 8": forecaster(
        [128, 64, 64], 10, 10, 64, 8, kernel_size=5, peephole="channel", output_activation="sigmoid"
    ),
    "forecaster, recurrent dropout (plain path)": forecaster([48, 48], 6, 12, 96, 8, recurrent_dropout=0.1),
    "forecaster, feedback": forecaster([48, 48], 6, 12, 96, 4, rollout="feedback"),
}


def main(names: list[str]) -> None:
    print("| case | inspect MB | measured MB | ratio | malloc as it comes, MB |\n|---|---|---|---|---|")
    for name in names or CASES:
        said = model_cost(CASES[name].spec, CASES[name].workload).training_bytes
        held = measure_in_process(name, {"MALLOC_MMAP_THRESHOLD_": "131072"})
        usual = measure_in_process(name, {})
        print(f"| {name} | {said / 1e6:.0f} | {held / 1e6:.0f} | {said / held:.2f} | {usual / 1e6:.0f} |", flush=True)


def measure_in_process(name: str, environment: dict[str, str]) -> int:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def measure(case: Case) -> int:
    import torch

    torch.set_num_threads(2)
    train(Case(ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=3), Workload(shape=(2, 1, 4, 4))))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    train(case)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT - before


def train(case: Case) -> None:
    import torch

    from convlstm.torch import ConvLSTM, Forecaster

    spec, given = case.spec, case.workload
    is_layer = isinstance(spec, ConvLSTMSpec)
    model = ConvLSTM.from_spec(spec) if is_layer else Forecaster(spec)
    optimiser = torch.optim.AdamW(model.parameters())
    frames = torch.randn(given.batch, *given.shape)
    timed = (spec if is_layer else spec.encoder).duration_strategy != "none"
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=given.precision == "bfloat16"):
            output = model(frames, durations=1.0 if timed else None)[0] if is_layer else model(frames, given.horizon)
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
