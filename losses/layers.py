"""The layers of a model that have an entropy change, and how often to compute its gradient, for `guidance.py`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from .conv import corner_taps
from .entropy import leading_block

MIN_EVERY, MAX_EVERY = 32, 128  # cached gradients were as good as exact ones up to 32 steps, and lost 1-2 % at 64
REFRESH_SHARE = 0.04  # of a layer's training step, about, on average
FACTORISATION_PENALTY = 6.0  # how much slower per flop Cholesky and its inverse are than a matrix product


@dataclass(frozen=True)
class Layer:
    """A layer whose entropy is measured: its weight, and the view of it (or of its gradient) that the measure reads."""

    name: str
    weight: nn.Parameter
    kind: Literal["dense", "conv"]
    view: Callable[[Tensor], Tensor]

    @property
    def dimensions(self) -> int:
        """The smaller size of the matrix of a dense layer, k."""
        return min(self.view(self.weight).shape)

    def refresh_interval(self, batch_size: int) -> int:
        """Steps between two computations of its guidance gradient that keep their cost to a few percent, a power of 2.

        Gram matrix and product with its inverse take 4 k^2 l flops, Cholesky and inverse k^3 at a lower speed, a
        training step 6 B k l; k and l are the smaller and the larger size of a dense layer's matrix. Taps cost nothing.
        From shape and batch size alone, never from timings, since runs must repeat.
        """
        if self.kind == "conv":
            return MIN_EVERY
        short, long = sorted(self.view(self.weight).shape)
        cost = (4 * short**2 * long + FACTORISATION_PENALTY * short**3) / (6 * batch_size * short * long)
        return min(MAX_EVERY, max(MIN_EVERY, int(2 ** round(math.log2(cost / REFRESH_SHARE)))))


def guidable_layers(model: nn.Module, measure: str) -> Iterator[Layer]:
    """The layers that have an entropy change and a trainable weight of their own, each weight once.

    `nn.Linear` and 1x1 `nn.Conv2d`, a linear map per pixel, are dense; other `nn.Conv2d`, and 1x1 ones in groups, are
    convolutions. Left out are frozen weights and those computed from other parameters (pruning, parametrisations).
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        weight = module._parameters.get("weight")
        if weight is None or not weight.requires_grad or id(weight) in seen:
            continue
        seen.add(id(weight))
        name = path or type(module).__name__.lower()
        if isinstance(module, nn.Linear):
            yield Layer(name, weight, "dense", leading_block if measure == "minor" else _whole)
        elif module.kernel_size == (1, 1) and module.groups == 1:
            yield Layer(name, weight, "dense", _leading_corner_taps if measure == "minor" else corner_taps)
        else:
            yield Layer(name, weight, "conv", corner_taps)


def _whole(weight: Tensor) -> Tensor:
    return weight


def _leading_corner_taps(weight: Tensor) -> Tensor:
    return leading_block(corner_taps(weight))
