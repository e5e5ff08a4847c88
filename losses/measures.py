"""The measures: entropy change of a part of a weight, its derivative and its cost, in one table, `MEASURES`.

`layers.py` chooses the part of each layer's weight; `entropy.py` and `conv.py` have the formulas.
"""

import math
from collections.abc import Callable, Sequence
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
    """An entropy change h, in nats, of a part of a weight: of matrices [..., out, in], or of single taps [a, b].

    Attributes:
        entropy: (part, ridge) -> h, unreduced and differentiable.
        entropy_and_gradient: (part, ridge) -> h, and its derivative in the part's shape, without autograd.
        of_matrices: True if each h belongs to a matrix of the part; False if it belongs to one number.
        floor: The least h at which a loss term without a minimum takes its slope; -inf: no floor.
    """

    entropy: Callable[[Tensor, float], Tensor]
    entropy_and_gradient: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    of_matrices: bool = True
    floor: float = -math.inf

    def dimensions(self, shape: Sequence[int]) -> int:
        """Returns the number k of singular values that one h sums over, for a part of this shape; 1 of a tap."""
        return min(shape[-2:]) if self.of_matrices else 1

    def has_input_columns(self, shape: Sequence[int]) -> bool:
        """Returns True if the part is one matrix [out, in], with a column for each input."""
        return self.of_matrices and len(shape) == 2

    def refresh_interval(self, shape: Sequence[int], batch_size: int) -> int:
        """Returns the steps between two computations of the gradient that keep their cost to a few percent.

        They are a power of 2, from shape and batch size alone: an interval from timings would differ between runs. The
        Gram matrix and the product with its inverse take 4 k^2 l flops, Cholesky and inverse k^3 at a lower speed, a
        training step 6 B k l; k and l are the smaller and the larger size of the matrix, B is the batch size. Taps cost
        next to nothing.
        """
        if not self.of_matrices:
            return MIN_EVERY
        short, long = sorted(shape[-2:])
        cost = (4 * short**2 * long + FACTORISATION_PENALTY * short**3) / (6 * batch_size * short * long)
        return min(MAX_EVERY, max(MIN_EVERY, int(2 ** round(math.log2(cost / REFRESH_SHARE)))))


MEASURES = {
    "volume": Measure(volume, volume_and_gradient),
    "minor": Measure(minor, volume_and_gradient),  # for the gradient the part is the leading block already
    "taps": Measure(
        lambda part, _ridge: taps(part),
        lambda part, _ridge: taps_and_gradient(part),
        of_matrices=False,
        floor=math.log(TAP_FLOOR),
    ),
}
