"""Measures what the seam to a training function costs: CPU seconds of an unguided epoch, interleaved.

The digits MLP is trained by the built-in loop, by a bare one, and by a function that is the bare one, as a generator
and with `trial.report`. A step of either function is to cost at most 3 % more than the built-in's. Epochs are short and
many, and compared within a round, whose order turns: on a machine that others use, 15 long ones gave 0.8 to 1.3.

`python -m tests.benchmarks.function_cost`; exits 1 where the median ratio misses the bar. Half a minute on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from operator import truediv
from pathlib import Path
from typing import Any

import torch

from sweep.config.sections import DataConfig, GuidanceConfig, Objective, TrainingConfig
from sweep.config.trial_config import TrialConfig
from sweep.training.trial import TrialPaths, assemble
from sweep.training.user_function import FunctionRun

from .loop_cost import by_hand, ours, repeated

BAR = 1.03
STEPS = 50  # of an epoch
SHARED: dict[str, Any] = {
    "objective": Objective(metric="val_loss", direction="minimize"),
    "guidance": GuidanceConfig(lambda1=0, lambda2=0),
    "training": TrainingConfig(max_epochs=10**6),
}
BUILT_IN = TrialConfig(model={"name": "mlp", "depth": 2, "width": 128}, data=DataConfig(name="digits"), **SHARED)


def function(trial: Any) -> Iterator[dict[str, float]]:
    """The bare loop as a generator."""
    folder = trial.folder
    run = repeated(assemble(BUILT_IN, TrialPaths(folder, folder, folder))[0], STEPS * BUILT_IN.training.batch_size)
    epochs = by_hand(run)
    for _ in trial.epochs(model=run.model, optimizer=run.optimizer):
        yield {"val_loss": next(epochs)}


def reporting(trial: Any) -> None:
    """The same with a report."""
    for metrics in function(trial):
        trial.report(metrics)


def of_function(name: str, folder: Path) -> Generator[float]:
    """CPU seconds of one epoch after the other, those of all threads."""
    config = TrialConfig(function=f"{__name__}:{name}", **SHARED)
    with contextlib.closing(FunctionRun(config, folder / name, None, print, torch.device("cpu")).fit()) as epochs:
        while True:
            started = time.process_time()
            next(epochs)
            yield time.process_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=80)
    count = parser.parse_args().epochs
    torch.set_num_threads(1)
    images = STEPS * BUILT_IN.training.batch_size
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        place = TrialPaths(folder / "trial", folder, folder)
        loops: dict[str, Any] = {
            "built-in": ours(repeated(assemble(BUILT_IN, place)[0], images)),
            "bare": by_hand(repeated(assemble(BUILT_IN, place)[0], images)),
            "generator": of_function("function", folder),
            "report": of_function("reporting", folder),
        }
        for loop in loops.values():
            next(loop)  # the first epoch warms up
        names = list(loops)
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(count):
            names = [*names[1:], names[0]]
            for name in names:
                found[name].append(next(loops[name]))
        for loop in loops.values():
            loop.close()
    print(f"torch {torch.__version__}, n = {count} epochs of {STEPS} steps each; medians (and quartiles) of the ratios")
    missed = False
    for name in ("generator", "report"):
        cost = statistics.median(found[name]) / STEPS * 1e6
        low, ratio, high = statistics.quantiles(map(truediv, found[name], found["built-in"]), n=4)
        bare = statistics.median(map(truediv, found[name], found["bare"]))
        missed |= ratio > BAR
        print(
            f"{name:12} {cost:6.0f} us a step; {ratio:.3f} ({low:.3f} to {high:.3f}) of the built-in loop (bar {BAR}), "
            f"{bare:.3f} of the bare one"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
