"""What guidance costs: CPU time of a training step, guided over unguided, and a control's over a plain loop's.

`python tests/benchmarks/step_cost.py`, about 5 minutes on one core, no data needed; exits 1 when a bar is missed.
Batch 128 (digits: 32), fused Adam, `every: auto`; an epoch has 156 steps (digits: 44), with `start_epoch()` before and
`metrics()` after them, and is repeated, the three kinds of loop taking turns. Compared are sums over the steps of the
fastest run of each, since other processes only add; the range is that of three such ratios, each of every third epoch.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses import EntropyGuidance
from models import build_model


class Case(NamedTuple):
    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int  # of an epoch
    control_bar: float | None
    guided_bar: float | None


def autoencoder(depth: int, width: int) -> Case:
    def model() -> nn.Module:
        return build_model("autoencoder", depth=depth, width=width, in_shape=(1, 28, 28), num_outputs=784, latent=32)

    def batch() -> tuple[Tensor, Tensor]:
        images = torch.rand(128, 16).matmul(torch.rand(16, 784)).div(16).reshape(128, 1, 28, 28)
        return images, images

    return Case(f"autoencoder depth {depth}", model, batch, F.mse_loss, 20_000 // 128, 1.05, 1.15)


def digits_mlp() -> Case:
    def model() -> nn.Module:
        return build_model("mlp", depth=2, width=64, in_shape=(1, 8, 8), num_outputs=10)

    def batch() -> tuple[Tensor, Tensor]:
        return torch.rand(32, 1, 8, 8), torch.randint(10, (32,))

    return Case("digits MLP 64-64-64-10", model, batch, F.cross_entropy, 1_437 // 32, 1.05, None)


def squares(width: int) -> Case:
    def model() -> nn.Module:
        return nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(width, width), nn.Tanh())))

    return Case(f"three {width} x {width}", model, lambda: (torch.rand(128, width),) * 2, F.mse_loss, 156, None, None)


CASES = [autoencoder(2, 32), autoencoder(4, 128), autoencoder(8, 256), digits_mlp(), squares(256), squares(1024)]


def epoch(case: Case, lambda1: float | None) -> Callable[[], list[float]]:
    """One epoch of a training loop, plain for None, a control's for 0, guided otherwise: CPU seconds of each step.

    `start_epoch()` counts to the first step and `metrics()` to the last one.
    """
    torch.manual_seed(0)
    model = case.model()
    inputs, targets = case.batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)  # far from the end
    guidance = None if lambda1 is None else EntropyGuidance(model, lambda1=lambda1, batch_size=len(inputs))

    def run() -> list[float]:
        times = [time.process_time()]
        if guidance:
            guidance.start_epoch()
        for step in range(case.steps):
            optimizer.zero_grad()
            case.loss(model(inputs), targets).backward()
            if guidance:
                guidance.add_gradients(step / case.steps)
            optimizer.step()
            if guidance and step == case.steps - 1:
                guidance.metrics()
            times.append(time.process_time())
        return [after - before for before, after in pairwise(times)]

    return run


def measure(case: Case, epochs: int) -> dict[str, list[list[float]]]:
    """CPU seconds of each kind of loop, by epoch and step; the kinds take turns."""
    kinds = {"plain": epoch(case, None), "control": epoch(case, 0.0), "guided": epoch(case, 1e-3)}
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for run in kinds.values():
        run()
    for _ in range(epochs):
        for kind, run in kinds.items():
            seconds[kind].append(run())
    return seconds


def quiet(epochs: list[list[float]]) -> float:
    """CPU seconds of an epoch on a quiet machine: each step's fastest run."""
    return sum(min(runs) for runs in zip(*epochs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, help="of each kind of loop")
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, n = {arguments.epochs} epochs of each kind")
    print(f"{'model':24}{'plain ms':>9}   {'control / plain (of thirds)':38}guided / plain (of thirds)")
    missed = False
    for case in (case for case in CASES if arguments.only in case.name):
        seconds = measure(case, arguments.epochs)
        cells = []
        for kind, bar in (("control", case.control_bar), ("guided", case.guided_bar)):
            ratio = quiet(seconds[kind]) / quiet(seconds["plain"])
            thirds = [quiet(seconds[kind][i::3]) / quiet(seconds["plain"][i::3]) for i in range(3)]
            verdict = "" if bar is None else f" <= {bar:.2f} {'ok' if ratio <= bar else 'MISSED'}"
            missed |= bar is not None and ratio > bar
            cells.append(f"{ratio:.3f} ({min(thirds):.3f}-{max(thirds):.3f}){verdict}")
        milliseconds = quiet(seconds["plain"]) / case.steps * 1e3
        print(f"{case.name:24}{milliseconds:9.3f}   {cells[0]:38}{cells[1]}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
