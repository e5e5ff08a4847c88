"""Multilayer perceptron: the image as one vector, hidden layers of equal width, logits."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

from torch import nn
from torch.nn import functional as F

from . import require_sizes

if TYPE_CHECKING:
    from torch import Tensor


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    ``depth`` is the number of hidden layers and ``width`` the units of each, so there are ``depth + 1`` weight
    matrices, ``depth - 1`` of them square: depth 2, width 128 on MNIST is 784-128-128-10.

    Args:
        depth: hidden layers, at least 1.
        width: units per hidden layer.
        in_shape: image shape [C, H, W].
        num_outputs: classes.

    Raises:
        ValueError: a size that is not an integer of at least 1.
    """

    task: ClassVar[str] = "classification"

    def __init__(self, *, depth: int, width: int, in_shape: tuple[int, int, int], num_outputs: int):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs)
        super().__init__()
        units = [prod(in_shape)] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(units))
        self.output = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, num_outputs]."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        logits: Tensor = self.output(x)
        return logits
