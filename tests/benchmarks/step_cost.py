"""Measures guidance: CPU time of a training step, guided over unguided, and a control's over a plain loop's.

`python -m tests.benchmarks.step_cost`, about 15 minutes on one core, no data needed; exits 1 when a bar is missed.
Batch 128 (digits: 32), fused Adam, `every: auto`, lambda1 1e-3, of ResNet-20 lambda2 too, every layer being guided. An
epoch has at least as many steps as the widest layer's computations are apart, with `start_epoch()` before and
`metrics()` after them, and is repeated, the kinds of loop taking turns, until `--seconds` are over. Compared are sums
over the steps of the fastest run of each, since other processes only add; the range is that of three such ratios, each
of every third epoch.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweep.losses import EntropyGuidance
from sweep.models import build_model


class Case(NamedTuple):
    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    steps: int  # of an epoch
    control_bar: float | None
    guided_bar: float | None
    options: dict[str, Any] = {}  # noqa: RUF012 (of guidance; nobody changes it)


def autoencoder(depth: int, width: int, bar: float) -> Case:
    def model() -> nn.Module:
        return build_model("autoencoder", depth=depth, width=width, in_shape=(1, 28, 28), num_outputs=784, latent=32)

    def batch() -> tuple[Tensor, Tensor]:
        images = torch.rand(128, 16).matmul(torch.rand(16, 784)).div(16).reshape(128, 1, 28, 28)
        return images, images

    return Case(f"autoencoder depth {depth}", model, batch, F.mse_loss, 20_000 // 128, 1.05, bar)


def digits_mlp() -> Case:
    def model() -> nn.Module:
        return build_model("mlp", depth=2, width=64, in_shape=(1, 8, 8), num_outputs=10)

    def batch() -> tuple[Tensor, Tensor]:
        return torch.rand(32, 1, 8, 8), torch.randint(10, (32,))

    return Case("digits MLP 64-64-64-10", model, batch, F.cross_entropy, 1_437 // 32, 1.05, None)


def resnet() -> Case:
    def model() -> nn.Module:
        return build_model("resnet", depth=20, width=16, in_shape=(3, 32, 32), num_outputs=10)

    def batch() -> tuple[Tensor, Tensor]:
        return torch.rand(128, 3, 32, 32), torch.randint(10, (128,))

    every_layer = {"lambda2": 1e-3, "form": "target", "conv_form": "target"}  # also those in front of a norm
    return Case("ResNet-20", model, batch, F.cross_entropy, 32, None, 1.10, every_layer)


def squares(width: int, bar: float | None = None) -> Case:
    def model() -> nn.Module:
        return nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(width, width), nn.Tanh())))

    return Case(f"three {width} x {width}", model, lambda: (torch.rand(128, width),) * 2, F.mse_loss, 156, None, bar)


CASES = [
    autoencoder(2, 32, 1.15),
    autoencoder(4, 128, 1.10),
    autoencoder(8, 256, 1.15),
    resnet(),
    digits_mlp(),
    squares(128),
    squares(256),
    squares(512),
    squares(1024, 1.15),
    squares(2048),
]


def epoch(case: Case, options: dict[str, Any] | None) -> Callable[[], list[float]]:
    """One epoch of a training loop, plain for None, else with these options: CPU seconds of each step.

    `start_epoch()` counts to the first step and `metrics()` to the last one.
    """
    torch.manual_seed(0)
    model = case.model()
    inputs, targets = case.batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)  # far from the end
    guidance = None if options is None else EntropyGuidance(model, batch_size=len(inputs), **options)

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


def measure(case: Case, seconds: float) -> dict[str, list[list[float]]]:
    """CPU seconds of each kind of loop, by epoch and step; the kinds take turns, at least three times."""
    kinds = {"plain": epoch(case, None), "guided": epoch(case, {"lambda1": 1e-3, **case.options})}
    if case.control_bar is not None:
        kinds["control"] = epoch(case, {"lambda1": 0.0})
    times: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for run in kinds.values():
        run()
    began = time.process_time()
    while len(times["plain"]) < 3 or time.process_time() - began < seconds:
        for kind, run in kinds.items():
            times[kind].append(run())
    return times


def quiet(epochs: list[list[float]]) -> float:
    """CPU seconds of an epoch on a quiet machine: each step's fastest run."""
    return sum(min(runs) for runs in zip(*epochs, strict=True))


def cell(times: dict[str, list[list[float]]], kind: str, bar: float | None) -> tuple[str, bool]:
    """Returns the cost of a kind over a plain loop, and if that misses its bar."""
    if kind not in times:
        return "", False
    ratio = quiet(times[kind]) / quiet(times["plain"])
    thirds = [quiet(times[kind][i::3]) / quiet(times["plain"][i::3]) for i in range(3)]
    missed = bar is not None and ratio > bar
    verdict = "" if bar is None else f" <= {bar:.2f} {'MISSED' if missed else 'ok'}"
    return f"{ratio:.3f} ({min(thirds):.3f}-{max(thirds):.3f}){verdict}", missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=60, help="CPU time of a case, at least three epochs of each kind"
    )
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}")
    print(f"{'model':24}{'plain ms':>9}{'n':>5}   {'guided / plain (of thirds)':38}control / plain (of thirds)")
    missed = False
    for case in (case for case in CASES if arguments.only in case.name):
        times = measure(case, arguments.seconds)
        guided, above = cell(times, "guided", case.guided_bar)
        control, above_control = cell(times, "control", case.control_bar)
        missed |= above or above_control
        milliseconds = quiet(times["plain"]) / case.steps * 1e3
        print(f"{case.name:24}{milliseconds:9.3f}{len(times['plain']):5}   {guided:38}{control}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
