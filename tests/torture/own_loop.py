"""Training functions that the torture kills: a loop that draws from all shared generators, in both forms."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from sweep import TrialContext


def generator(trial: TrialContext) -> Iterator[dict[str, float]]:
    hidden = [nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Tanh()) for _ in range(trial["depth"])]
    model = nn.Sequential(*hidden, nn.Linear(8, trial["width"]), nn.Linear(trial["width"], 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    guidance = trial.guidance(model, batch_size=16)
    for _ in trial.epochs(model=model, optimizer=optimizer):
        time.sleep(0.05)
        for _ in range(4):
            x = torch.randn(16, 8) + random.random() + float(np.random.rand())  # noqa: NPY002
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            guidance.add_gradients()
            optimizer.step()
        yield {"val_loss": float(loss)}


def callback(trial: TrialContext) -> None:
    for metrics in generator(trial):
        trial.report(metrics)
