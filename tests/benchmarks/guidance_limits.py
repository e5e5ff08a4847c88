"""Checks what guidance must not change: cached terms, and negative controls where it does little, on real images.

`SWEEP_DATA=.data python -m tests.benchmarks.guidance_limits`, 5 minutes on one core; exits 1 when a bar is missed.
Autoencoders of depth 4 as in `guidance_effect.py`. Caching: mean final test MSE of 3 seeds after 800 steps, `every` 8
and 32 over 1. A lambda1 of 100 with form log: 400 steps, capped at 0.1 of the task's gradient and not capped, beside
the control. The paper's form as it stands: guidance's gradient over the task's in the first step. Corner taps: a CNN on
5,000 images of CIFAR-10, SGD at 0.05 with momentum 0.9, batch 100, 6 epochs, reciprocal with epsilon 1e-6; the largest
|c11| that ever was.
"""

import argparse
import os
import statistics
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from sweep.losses import EntropyGuidance, GuidanceWarning
from sweep.losses.conv import corner_taps
from sweep.models import build_model

from .guidance_effect import BATCH_SIZE, autoencoder, final, images, readings

SEEDS = range(3)


def row(name: str, value: float, bar: str, held: bool) -> bool:
    """Prints one line of the table; returns whether the bar was held."""
    print(f"{name:68}{value:<12.4g}{bar:22}{'ok' if held else 'MISSED'}", flush=True)
    return held


def caching(train: Tensor, test: Tensor) -> list[bool]:
    mean = {
        every: statistics.mean(
            final(readings(train, test, depth=4, seed=seed, steps=800, lambda1=1e-3, every=every)) for seed in SEEDS
        )
        for every in (1, 8, 32)
    }
    ratios = {every: mean[every] / mean[1] for every in (8, 32)}
    return [
        row(f"final MSE at every {every} over every 1", ratio, "0.95 to 1.05", abs(ratio - 1) < 0.05)
        for every, ratio in ratios.items()
    ]


def strong(train: Tensor, test: Tensor) -> list[bool]:
    def mse(**options: float | None) -> float:
        return statistics.mean(
            final(readings(train, test, depth=4, seed=seed, steps=400, form="log", **options)) for seed in SEEDS
        )

    control, capped, free = mse(lambda1=0.0), mse(lambda1=100.0, max_ratio=0.1), mse(lambda1=100.0, max_ratio=None)
    return [
        row("final MSE of lambda1 100 capped at 0.1 over its control's", capped / control, "< 1", capped < control),
        row("the same without a cap", free / control, "> 1", free > control),
    ]


def literal(train: Tensor) -> list[bool]:
    held = []
    for depth in (4, 8):
        model = autoencoder(depth, "default", 0)
        guidance = EntropyGuidance.paper(model)
        F.mse_loss(model(train[:BATCH_SIZE]), train[:BATCH_SIZE]).backward()
        guidance.add_gradients()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ratio = guidance.metrics()["guidance/ratio"]
        flagged = any(w.category is GuidanceWarning and "inert" in str(w.message) for w in caught)
        name = f"gradient of the paper's form over the task's, depth {depth}, first step"
        held.append(row(name, ratio, "< 1e-5, and flagged", ratio < 1e-5 and flagged))
    return held


def largest_tap(pictures: Tensor, labels: Tensor, max_ratio: float | None) -> float:
    torch.manual_seed(0)
    model = build_model("cnn", depth=4, width=16, in_shape=(3, 16, 16), num_outputs=10, hidden=None)
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guidance = EntropyGuidance(
        model, lambda1=0.0, lambda2=1e-3, conv_form="reciprocal", epsilon=1e-6, max_ratio=max_ratio, batch_size=100
    )
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for _ in range(6):
        guidance.start_epoch()
        for indices in torch.randperm(len(labels), generator=generator).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(pictures[indices]), labels[indices]).backward()
            guidance.add_gradients()
            optimizer.step()
            largest = max(largest, *(float(corner_taps(kernel.detach()).abs().max()) for kernel in kernels))
    return largest


def taps(root: str) -> list[bool]:
    try:
        data = CIFAR10(root, train=True)
    except RuntimeError:
        sys.exit(
            f"no CIFAR-10 in {Path(root).resolve()}: give the folder of cifar-10-batches-py by --data or SWEEP_DATA"
        )
    pictures = torch.from_numpy(data.data[:5_000]).permute(0, 3, 1, 2).float().div(255)
    pictures = F.avg_pool2d(pictures - pictures.mean((0, 2, 3), keepdim=True), 2) / pictures.std()
    labels = torch.tensor(data.targets[:5_000])
    capped, free = (largest_tap(pictures, labels, max_ratio) for max_ratio in (1.0, None))
    return [
        row("largest |c11|, SGD, epsilon 1e-6, capped at 1", capped, "< 2", capped < 2),
        row("the same without a cap", free, "", True),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SWEEP_DATA", ".data"), help="folder of MNIST and CIFAR-10")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = images(arguments.data, train=True, first=20_000)
    test = images(arguments.data, train=False, first=1_000)
    print(f"torch {torch.__version__}, {len(SEEDS)} seeds")
    held = [*caching(train, test), *strong(train, test), *literal(train), *taps(arguments.data)]
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
