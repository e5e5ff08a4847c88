"""Networks of a few units, a batch for them, and what one call of EntropyGuidance does: for test_guidance*.py."""

import itertools
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweep.losses import EntropyGuidance, GuidanceWarning


class SmallNet(nn.Module):
    """A 3x3 and a 1x1 convolution, a wide and a tall dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.pointwise = nn.Conv2d(4, 3, 1)
        self.hidden = nn.Linear(3 * 9, 5)
        self.out = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.pointwise(torch.tanh(self.conv(x))).flatten(1)
        output: Tensor = self.out(torch.tanh(self.hidden(hidden)))
        return output


def small_net(seed: int = 0, dtype: torch.dtype = torch.float64) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet().to(dtype)


def dense_net(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(16, 2, 5, 5, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randn(16, 6, generator=generator, dtype=torch.float64).to(dtype)


def task_loss(model: nn.Module) -> Tensor:
    inputs, targets = batch(next(model.parameters()).dtype)
    return F.mse_loss(model(inputs if isinstance(model, SmallNet) else inputs.flatten(1)), targets)


def added_gradients(model: nn.Module, guidance: EntropyGuidance, **arguments: float) -> dict[str, Tensor]:
    """Returns what one call adds to each parameter's gradient; leaves the gradients guided."""
    model.zero_grad()
    task_loss(model).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    guidance.add_gradients(**arguments)
    return {name: p.grad - before[name] for name, p in model.named_parameters() if p.grad is not None}


def quiet_metrics(guidance: EntropyGuidance) -> dict[str, float]:
    """The metrics where inert or dominant guidance is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuidanceWarning)
        return guidance.metrics()
