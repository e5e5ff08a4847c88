"""The measures: entropy change of a part of a weight and its derivative, in one table, `MEASURES`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .conv import TAP_FLOOR, taps, taps_and_gradient
from .entropy import minor, volume, volume_and_gradient

MIN_EVERY = 32  # steps; cached gradients were as good as exact ones up to here
MAX_EVERY = 128  # steps; at 64 cached gradients lost 1-2 %
REFRESH_SHARE = 0.04  # cost of refreshing a layer's guidance gradient that is aimed at, as a share of its training step
FACTORISATION_PENALTY = 6.0  # time per flop of Cholesky and its inverse, relative to a matrix product


@dataclass(frozen=True)
class Measure:
    """An entropy change h, in nats, of a part of a weight: of matrices [..., out, in], or of single taps [a, b]."""

    entropy: Callable[[Tensor, float], Tensor]  # (part, ridge) -> h, unreduced and differentiable
    entropy_and_gradient: Callable[[Tensor, float], tuple[Tensor, Tensor]]  # -> h, its derivative, without autograd
    of_matrices: bool = True
    floor: float = -math.inf  # the least h at which a loss term without a minimum has its slope


MEASURES = {
    "volume": Measure(volume, volume_and_gradient),
    "minor": Measure(minor, volume_and_gradient),  # for the gradient the part is the leading block already
    "taps": Measure(
        lambda part, _: taps(part),
        lambda part, _: taps_and_gradient(part),
        of_matrices=False,
        floor=math.log(TAP_FLOOR),
    ),
}
