"""Train a rain forecaster of `convlstm.torch` with Lightning, on the radar sample of the package.

    pip install '.[torch,nowcast]' 'lightning!=2.6.2,!=2.6.3'
    python examples/lightning/train.py --steps 150 --output rain.safetensors

A batch depends on the seed and the step only. The model is saved as a file that every framework reads, without pickle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.data import Batch, Batches, LogRain, find_windows, open_frames, sample_path, split_days, windows_within
from convlstm.torch import Forecaster, save

INPUT_LENGTH, HORIZON = 6, 6


class BatchDataset(Dataset[tuple[Tensor, ...]]):
    """Whole batches by number: input frames, target frames, and 1 where the target is known."""

    def __init__(self, batch: Callable[[int], Batch], count: int) -> None:
        self._batch, self._count = batch, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        batch = self._batch(number)
        return tuple(torch.from_numpy(array) for array in (batch.inputs, batch.targets, batch.weight))


class RadarData(lightning.LightningDataModule):
    """Windows of radar rain, of which the last day is for the test and the day before for validation."""

    def __init__(self, source: str | Path, *, steps: int, batch_size: int = 4, crop: int = 48, seed: int = 0) -> None:
        super().__init__()
        self.source, self.steps, self.batch_size, self.crop, self.seed = source, steps, batch_size, crop, seed

    def setup(self, stage: str) -> None:
        """Read the frames and cut them into windows that do not cross a gap or a day of another split."""
        frames, length = open_frames(self.source), INPUT_LENGTH + HORIZON
        starts = find_windows(frames.seconds, length, time_step=frames.time_step)
        splits = {name: windows_within(starts, length, mask) for name, mask in split_days(frames.time).items()}
        options: dict[str, Any] = {"input_length": INPUT_LENGTH, "horizon": HORIZON, "batch_size": self.batch_size}
        random = Batches(frames, splits["train"], LogRain(), crop=self.crop, augment=True, seed=self.seed, **options)
        self.sets = {"train": BatchDataset(random.batch, self.steps)}
        for name in ("validation", "test"):
            ordered = Batches.in_order(frames, splits[name][::4], LogRain(), **options)
            self.sets[name] = BatchDataset(ordered.batch, len(ordered))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.sets["train"], batch_size=None)  # an item is a batch

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.sets["validation"], batch_size=None)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.sets["test"], batch_size=None)


class RainForecaster(lightning.LightningModule):
    """An encoder–forecaster whose loss is the mean squared error of the known values."""

    def __init__(self, hidden_channels: int = 16, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        stack = ConvLSTMSpec(in_channels=16, hidden_channels=hidden_channels, kernel_size=3)
        self.model = Forecaster(ForecasterSpec(encoder=stack, patch_size=4, residual=True))

    def forward(self, frames: Tensor) -> Tensor:
        return self.model(frames, HORIZON)

    def training_step(self, batch: tuple[Tensor, ...], number: int) -> Tensor:
        frames, target, weight = batch
        loss = mean_square(self(frames), target, weight)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], number: int) -> None:
        self._log_errors("validation", batch)

    def test_step(self, batch: tuple[Tensor, ...], number: int) -> None:
        self._log_errors("test", batch)

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.hparams["learning_rate"], total_steps=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _log_errors(self, name: str, batch: tuple[Tensor, ...]) -> None:
        frames, target, weight = batch
        persistence = frames[:, -1:].expand_as(target)
        sizes = {"batch_size": len(frames)}
        self.log(f"{name}_loss", mean_square(self(frames), target, weight), **sizes)
        self.log(f"{name}_persistence", mean_square(persistence, target, weight), **sizes)


def mean_square(forecast: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean squared error over the known values, in the units of the transform."""
    return ((forecast - target).square() * weight).sum() / weight.sum().clamp(min=1)


def main() -> None:
    """Train, compare with persistence on the test day, and save the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=sample_path(), help="gridded rain; default: the sample of the package")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps")
    parser.add_argument("--output", type=Path, help="model file to write, *.safetensors")
    options = parser.parse_args()
    lightning.seed_everything(0)
    data, module = RadarData(options.data, steps=options.steps), RainForecaster()
    trainer = lightning.Trainer(
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (before,) = trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    (after,) = trainer.validate(module, data, verbose=False)
    (test,) = trainer.test(module, data, verbose=False)
    print(f"validation loss: {before['validation_loss']:.5f} before, {after['validation_loss']:.5f} after the training")
    print(f"test loss: {test['test_loss']:.5f} of the model, {test['test_persistence']:.5f} of persistence")
    if options.output is not None:
        save(options.output, module.model)


if __name__ == "__main__":
    main()
