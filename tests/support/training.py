"""Configs of small trials, and their numbers and weights in a form that compares bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweep.config.sections import DataConfig, GuidanceConfig, Objective, TrainingConfig
from sweep.config.trial_config import TrialConfig
from sweep.training.reports import EpochMetrics, TrialPaths, TrialReport
from sweep.training.trial import run_trial

UNGUIDED = {"lambda1": 0.0, "lambda2": 0.0}


def trial_config(**changes: Any) -> TrialConfig:
    """A small MLP on 300 digits; a keyword replaces what it says of a section."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": "mlp", "depth": 2, "width": 8},
        "data": {"name": "digits", "val_fraction": 0.2, "train_size": 300},
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "guidance": UNGUIDED,
        "training": {"max_epochs": 3, "batch_size": 64, "lr": 3e-3},
    }
    merged = {name: {**section, **changes.get(name, {})} for name, section in sections.items()}
    return TrialConfig(
        model=merged["model"],
        data=DataConfig(**merged["data"]),
        objective=Objective(**merged["objective"]),
        guidance=GuidanceConfig(**merged["guidance"]),
        training=TrainingConfig(**merged["training"]),
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def numbers(history: list[EpochMetrics]) -> list[dict[str, float]]:
    """All metric values but the time."""
    return [{k: v for k, v in m.values.items() if k != "seconds"} for m in history]


def train(config: TrialConfig, folder: Path, *, reports: int | None = None, attempt: int = 1) -> list[TrialReport]:
    """Returns the reports of a trial, which is closed after so many of them."""
    running, found = run_trial(config, TrialPaths(folder, folder, folder), attempt=attempt, interval=0.0), []
    for report in running:
        found.append(report)
        if len(found) == reports:
            break
    running.close()
    return found


def curve(reports: list[TrialReport]) -> dict[int, dict[str, float]]:
    """Returns all metric values but the time, by epoch; each epoch is there once, in order."""
    epochs = [metrics for report in reports for metrics in report.epochs]
    assert [m.epoch for m in epochs] == list(range(1, len(epochs) + 1))
    return {m.epoch: {name: value for name, value in m.values.items() if name != "seconds"} for m in epochs}


VARIANTS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw, cosine, augmented": {
        "training": {"optimizer": "adamw", "lr_schedule": "cosine", "weight_decay": 0.1},
        "data": {"augment": ("crop", "flip")},
    },
    "sgd, clipped": {"training": {"optimizer": "sgd", "lr": 0.05, "grad_clip": 0.5}},
    "guided": {"guidance": {"lambda1": 1e-2}},
    "guided at every third step": {"guidance": {"lambda1": 1e-2, "every": 3}},
    "guided until the middle": {"guidance": {"lambda1": 1e-2, "until": 0.5}},
    "cnn": {
        "model": {"name": "cnn", "depth": 2, "width": 4, "downsample": 1},
        "guidance": {"lambda1": 1e-2, "lambda2": 1e-2, "every": 3},
    },
    "bfloat16": {"training": {"precision": "bfloat16"}},
}
