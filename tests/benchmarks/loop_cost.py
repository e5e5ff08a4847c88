"""Measures the training loop beside a hand-written one: CPU seconds of an unguided epoch, interleaved.

The images are scikit-learn's digits, repeated to 400 steps an epoch; what an epoch costs beyond its steps (metrics,
entropies, seeding) is in the ratio, and is told beside it.

`python -m tests.benchmarks.loop_cost`; exits 1 where the median ratio misses the bar. About one minute on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from sweep.config.sections import DataConfig, GuidanceConfig, Objective, TrainingConfig
from sweep.config.trial_config import TrialConfig
from sweep.data.batches import ArrayPart
from sweep.losses.task import TASKS
from sweep.training.loop import TrainingState, fit
from sweep.training.trial import TrialPaths, assemble

BAR = 1.05
STEPS = 400
CASES = {
    "mlp 2 x 128, digits": {"name": "mlp", "depth": 2, "width": 128},
    "cnn 4 x 16, digits": {"name": "cnn", "depth": 4, "width": 16},
    "autoencoder 4 x 128, digits": {"name": "autoencoder", "depth": 4, "width": 128, "latent": 32},
}


def ours(run: TrainingState) -> Iterator[float]:
    """CPU seconds of one epoch after the other, validation left out."""
    run.val = type(run.val)(run.val.images[:1], run.val.labels[:1])
    epochs = fit(run)
    while True:
        started = time.process_time()
        next(epochs)
        yield time.process_time() - started


def repeated(run: TrainingState, images: int) -> TrainingState:
    """The same run on a training set made longer by repeating it."""
    times = -(-images // len(run.train.labels))
    train = ArrayPart(run.train.images.repeat(times, 1, 1, 1)[:images], run.train.labels.repeat(times)[:images])
    return dataclasses.replace(run, train=train)


def by_hand(run: TrainingState) -> Iterator[float]:
    """The same network, optimizer and data in the loop that anybody would write."""
    images, labels = run.train.images, run.train.labels
    scale = run.info.scale
    mean, std = scale * torch.tensor(run.info.mean), scale * torch.tensor(run.info.std)
    reconstruct = run.task is TASKS["reconstruction"]
    model, optimizer = run.model, run.optimizer
    while True:
        started, losses = time.process_time(), []
        for index in torch.randperm(len(labels)).split(run.config.training.batch_size):
            x, y = images[index].float(), labels[index]
            x = x.div_(scale) if reconstruct else x.sub_(mean).div_(std)
            optimizer.zero_grad()
            output = model(x)
            loss = (
                torch.nn.functional.mse_loss(output, x) if reconstruct else torch.nn.functional.cross_entropy(output, y)
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses).mean().item()
        yield time.process_time() - started


def measure(config: TrialConfig, place: TrialPaths, steps: int, epochs: int) -> list[list[float]]:
    """CPU seconds (ours, by hand) of each of some epochs of `steps` batches."""
    images = steps * config.training.batch_size
    loops = [loop(repeated(assemble(config, place)[0], images)) for loop in (ours, by_hand)]
    for loop in loops:
        next(loop)  # the first epoch warms up
    return [[next(loop) for loop in loops] for _ in range(epochs)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    missed = False
    print(f"torch {torch.__version__}, n = {epochs} epochs of each; ratio of medians (quartiles), fixed cost")
    for name, model in CASES.items():
        config = TrialConfig(
            model=model,
            data=DataConfig(name="digits"),
            objective=Objective(metric="val_loss", direction="minimize"),
            guidance=GuidanceConfig(lambda1=0, lambda2=0),
            training=TrainingConfig(max_epochs=10**6),
        )
        with tempfile.TemporaryDirectory() as folder:
            place = TrialPaths(Path(folder) / "trial", Path(folder), Path(folder))
            pairs = measure(config, place, STEPS, epochs)
            short = measure(config, place, 1, 50)
        fixed = statistics.median(a for a, _ in short) - statistics.median(b for _, b in short)
        ratios = sorted(a / b for a, b in pairs)
        ratio = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
        missed |= ratio > BAR
        low, _, high = statistics.quantiles(ratios, n=4)
        verdict = "ok" if ratio <= BAR else "MISSED"
        print(
            f"{name:30}{ratio:6.3f} ({low:.3f} - {high:.3f})  bar {BAR}  {verdict}; an epoch {fixed * 1e3:.1f} ms",
            flush=True,
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
