"""The trial of `sweep simulate`: sleeps and reports made-up curves. Imports no torch."""

import math
import os
import time
from collections.abc import Collection, Iterator

import psutil

from ..config.trial_config import TrialConfig
from .reports import REPORT_EVERY, EpochMetrics, TrialReport, is_due

MODEL = "simulated"  # the model's name in the study of a simulation; its option epoch_seconds is the sleep per epoch
LAYERS = 4  # layers with a reported entropy, so that there are as many metrics as real trials have


def run_trial(
    config: TrialConfig, *_place: object, pruning_epochs: Collection[int] | None = None, **_attempt: object
) -> Iterator[TrialReport]:
    """Sleeps through the epochs and reports as often as a real trial does; without checkpoints, it never resumes."""
    # A model with the option `waits` has no epochs: it sends empty reports until it is stopped, to occupy a worker.
    while config.model.get("waits"):
        yield TrialReport([])
        time.sleep(REPORT_EVERY)
    last, pending = config.training.max_epochs, []
    reported = time.monotonic()
    for epoch in range(1, last + 1):
        time.sleep(config.model["epoch_seconds"])
        values = {**metrics(config, epoch), "worker/pid": float(os.getpid())}
        if epoch in (1, last):
            values["worker/mb"] = psutil.Process().memory_full_info().uss / 1e6  # that only this process uses
        pending.append(EpochMetrics(epoch, values, time.time_ns() // 1_000_000))
        if epoch == last or is_due((m.epoch for m in pending), time.monotonic() - reported, pruning_epochs):
            reported = time.monotonic()
            yield TrialReport(pending, None, "completed" if epoch == last else None)
            pending = []


def metrics(config: TrialConfig, epoch: int) -> dict[str, float]:
    """Returns the metrics of one epoch: a learnable function of the hyperparameters, whose curves cross."""
    guidance, model = config.guidance, config.model
    misses = (
        (math.log10(guidance.lambda1) + 3) / 2,
        (math.log10(guidance.epsilon) + 1) / 2,
        (model["depth"] - 4) / 4,
        (math.log2(model["width"]) - 6) / 2,
    )
    end = 0.1 + sum(miss * miss for miss in misses) / 4
    speed = 8 / model["depth"]  # deep models learn slowly at first
    wiggle = 0.02 * math.sin(1e3 * sum(misses) + 7 * epoch)
    loss = end + 2.2 * math.exp(-speed * epoch / config.training.max_epochs * 3) + wiggle
    return {
        "train_loss": 0.9 * loss,
        "train_accuracy": math.exp(-0.9 * loss),
        "val_loss": loss,
        "val_accuracy": math.exp(-loss),
        "seconds": model["epoch_seconds"],
        "guidance/dense": guidance.lambda1 / loss,
        "guidance/ratio": 0.1,
        "grad_norm/task": loss / epoch,
        **{f"entropy/layer{layer}": -loss / layer for layer in range(1, LAYERS + 1)},
    }
