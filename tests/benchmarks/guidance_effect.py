"""What default guidance does to MNIST autoencoders: test MSE of guided runs over their unguided controls.

`SWEEP_DATA=.data python tests/benchmarks/guidance_effect.py`, about 3 minutes on one core; exits 1 when a bar is missed.
First 20,000 training images, batch 128, Adam at 1e-3, 800 steps; the final MSE is the mean of the last three readings,
one every 40 steps, on the first 1,000 test images. A speed-up is 800 over the first step at which the guided run reads
no more than its control's final MSE.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import MNIST

from losses import EntropyGuidance
from models import build_model

WIDTHS = {2: 32, 4: 128, 8: 256}  # of the first hidden layer, by depth
BATCH_SIZE = 128


class Bar(NamedTuple):
    init: str
    depth: int
    low: float
    high: float


BARS = [
    Bar("default", 2, 0.0, 0.90),
    Bar("default", 4, 0.0, 0.82),
    Bar("default", 8, 0.0, 0.72),
    Bar("he", 4, 0.95, 1.06),
    Bar("he", 8, 0.95, 1.06),
]


def images(root: str, *, train: bool, first: int) -> Tensor:
    return MNIST(root, train=train).data[:first].float().div(255).unsqueeze(1)


def autoencoder(depth: int, init: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model(
        "autoencoder", depth=depth, width=WIDTHS[depth], in_shape=(1, 28, 28), num_outputs=784, latent=32
    )
    if init == "he":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
    return model


def epochs(data: Tensor, seed: int) -> Iterator[Iterator[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data), generator=generator)
        yield (data[indices] for indices in order.split(BATCH_SIZE) if len(indices) == BATCH_SIZE)


def readings(bar: Bar, lambda1: float, seed: int, steps: int, train: Tensor, test: Tensor) -> tuple[list[float], float]:
    """Trains once; the test MSE every 40 steps, and the largest guidance ratio of an epoch."""
    model = autoencoder(bar.depth, bar.init, seed)
    guidance = EntropyGuidance(model, lambda1=lambda1, batch_size=BATCH_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    mse: list[float] = []
    ratios = [0.0]
    step = 0
    for epoch in epochs(train, seed):
        guidance.start_epoch()
        for inputs in epoch:
            optimizer.zero_grad()
            F.mse_loss(model(inputs), inputs).backward()
            guidance.add_gradients(step / steps)
            optimizer.step()
            step += 1
            if step % 40 == 0:
                with torch.no_grad():
                    mse.append(F.mse_loss(model(test), test).item())
            if step == steps:
                return mse, max(ratios)
        ratios.append(guidance.metrics().get("guidance/ratio", 0.0))
    raise AssertionError("epochs never end")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SWEEP_DATA", ".data"), help="folder with MNIST/raw")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lambda1", type=float, default=1e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = images(arguments.data, train=True, first=20_000)
    test = images(arguments.data, train=False, first=1_000)

    print(
        f"torch {torch.__version__}, lambda1 {arguments.lambda1:g}, {arguments.steps} steps, n = {arguments.seeds} seeds"
    )
    print(
        "init     depth  control MSE      guided MSE       ratio of each seed       mean ± sd       bar          speed-up  max ratio  CPU s"
    )
    missed = False
    for bar in BARS:
        started = time.process_time()
        controls, guided, speedups, largest = [], [], [], 0.0
        for seed in range(arguments.seeds):
            control, _ = readings(bar, 0.0, seed, arguments.steps, train, test)
            mse, ratio = readings(bar, arguments.lambda1, seed, arguments.steps, train, test)
            controls.append(statistics.mean(control[-3:]))
            guided.append(statistics.mean(mse[-3:]))
            reached = [40 * (i + 1) for i, value in enumerate(mse) if value <= controls[-1]]
            speedups.append(arguments.steps / reached[0] if reached else 0.0)
            largest = max(largest, ratio)
        ratios = [g / c for g, c in zip(guided, controls, strict=True)]
        mean, sd = statistics.mean(ratios), statistics.stdev(ratios) if len(ratios) > 1 else 0.0
        held = bar.low <= mean <= bar.high
        missed |= not held
        print(
            f"{bar.init:8} {bar.depth:<6} {_spread(controls)}  {_spread(guided)}  {' '.join(f'{r:.3f}' for r in ratios):24}"
            f" {mean:.3f} ± {sd:.3f}   {bar.low:.2f}-{bar.high:.2f} {'ok' if held else 'MISSED':7}"
            f"{statistics.mean(speedups):.2f}x     {largest:.2f}       {time.process_time() - started:.0f}",
            flush=True,
        )
    return int(missed)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"


if __name__ == "__main__":
    sys.exit(main())
