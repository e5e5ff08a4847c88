"""Measures how far guidance and its placebo make the weights grow, and entropy rise.

`SWEEP_DATA=.data python -m tests.benchmarks.placebo`, 2 minutes on one core; no bar. MNIST autoencoders of 8 layers as
in `guidance_effect`, Adam at 1e-3, 400 steps; medians and ranges over seeds. Growth is the norm of all weight matrices
over that at the start, rise the mean over layers of the change of entropy, in nats per dimension.
"""

import argparse
import math
import os
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sweep.losses import EntropyGuidance

from .guidance_effect import autoencoder, epochs, images

STEPS = 400
MEMBERS: dict[str, dict[str, Any]] = {"plain": {"lambda1": 0.0}, "guided": {}, "placebo": {"placebo": True}}


def norm(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters() if p.dim() > 1))


def run(train: torch.Tensor, test: torch.Tensor, *, seed: int, **options: Any) -> tuple[float, float, float]:
    """Growth, rise, and the MSE on the test images at the end."""
    model = autoencoder(8, "default", seed)
    guidance = EntropyGuidance(model, **{"lambda1": 1e-2, **options})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before, entropy = norm(model), guidance.metrics()
    batches = (batch for epoch in epochs(train, seed) for batch in epoch)
    guidance.start_epoch()
    for batch in islice(batches, STEPS):
        optimizer.zero_grad()
        F.mse_loss(model(batch), batch).backward()
        guidance.add_gradients()
        optimizer.step()
    after = guidance.metrics()
    rises = [after[name] - value for name, value in entropy.items() if name.startswith("entropy/")]
    with torch.no_grad():
        return norm(model) / before, sum(rises) / len(rises), float(F.mse_loss(model(test), test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SWEEP_DATA", ".data"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (images(options.data, train=part, first=n) for part, n in ((True, 20_000), (False, 1000)))
    print(f"torch {torch.__version__}, {options.seeds} seeds, median [range]")
    for name, changes in MEMBERS.items():
        found = zip(*(run(train, test, seed=seed, **changes) for seed in range(options.seeds)), strict=True)
        cells = [f"{median(values):.3f} [{min(values):.3f}, {max(values):.3f}]" for values in found]
        print(f"{name:8} growth {cells[0]}  rise {cells[1]}  test MSE {cells[2]}", flush=True)


if __name__ == "__main__":
    main()
