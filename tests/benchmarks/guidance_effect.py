"""Measures default guidance on MNIST autoencoders: test MSE of guided runs over their unguided controls.

`SWEEP_DATA=.data python -m tests.benchmarks.guidance_effect`, 3 minutes on one core; exits 1 when a bar is missed.
First 20,000 training images, batch 128, Adam at 1e-3, 800 steps; the final MSE is the mean of the last three readings,
one every 40 steps, on the first 1,000 test images. The ratio is of the same seed's pair; given are mean and standard
deviation over seeds. A speed-up is 800 over the first step at which the guided run reads its control's final or less.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import MNIST

from sweep.losses import EntropyGuidance
from sweep.models import build_model

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
    try:
        data = MNIST(root, train=train).data[:first]
    except RuntimeError:
        sys.exit(f"no MNIST in {Path(root).resolve()}: give the folder that holds MNIST/raw by --data or SWEEP_DATA")
    return data.float().div(255).unsqueeze(1)


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


def readings(
    train: Tensor, test: Tensor, *, depth: int, init: str = "default", seed: int, steps: int, **options: Any
) -> list[float]:
    """Trains once, with options of guidance, a control for lambda1 = 0; the test MSE every 40 steps."""
    model = autoencoder(depth, init, seed)
    guidance = EntropyGuidance(model, batch_size=BATCH_SIZE, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    mse: list[float] = []
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
                return mse
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

    print(f"torch {torch.__version__}, lambda1 {arguments.lambda1:g}, {arguments.steps} steps, {arguments.seeds} seeds")
    print(f"{'init':8}{'depth':6}{'control MSE':18}{'guided MSE':18}{'guided / control':17}{'bar':18}speed-up by seed")
    missed = False
    for bar in BARS:
        pairs = [
            [
                readings(train, test, depth=bar.depth, init=bar.init, seed=seed, steps=arguments.steps, lambda1=lambda1)
                for lambda1 in (0.0, arguments.lambda1)
            ]
            for seed in range(arguments.seeds)
        ]
        finals = [[final(run) for run in pair] for pair in pairs]
        ratios = [guided / control for control, guided in finals]
        held = bar.low <= statistics.mean(ratios) <= bar.high
        missed |= not held
        speedups = [speedup(guided, control) for (_, guided), (control, _) in zip(pairs, finals, strict=True)]
        print(
            f"{bar.init:8}{bar.depth:<6}{spread([f[0] for f in finals], 4):18}{spread([f[1] for f in finals], 4):18}"
            f"{spread(ratios, 3):17}{f'{bar.low:.2f}-{bar.high:.2f} ' + ('ok' if held else 'MISSED'):18}"
            + " ".join("never" if s is None else f"{s:.2f}x" for s in speedups),
            flush=True,
        )
    return int(missed)


def final(run: list[float]) -> float:
    """The mean of the last three readings."""
    return statistics.mean(run[-3:])


def speedup(guided: list[float], control_final: float) -> float | None:
    reached = [reading for reading, mse in enumerate(guided, start=1) if mse <= control_final]
    return len(guided) / reached[0] if reached else None


def spread(values: list[float], digits: int) -> str:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {sd:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
