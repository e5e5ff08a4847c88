"""The loss term of a layer: a form of its entropy change h at a scale, as a value and as a slope."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .conv import TAP_FLOOR
from .layers import MEASURES, Layer
from .options import FormName, LoopOptions


class Form(NamedTuple):
    """A loss term of an entropy change h, elementwise, and its derivative by h; both are called as f(h, constant)."""

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]


def _log_sum(h: Tensor, epsilon: float) -> Tensor:
    """Returns log(exp(h) + epsilon) where exp(h) may overflow or underflow."""
    return torch.logaddexp(h, torch.full_like(h, math.log(epsilon)))


FORMS: dict[FormName, Form] = {
    # -h, and its slope -1
    "log": Form(lambda h, _: -h, lambda h, _: -torch.ones_like(h)),
    # The stable term of arXiv 2308.14938, 1 / (exp(h) + epsilon), and -exp(h) / (exp(h) + epsilon)^2
    "reciprocal": Form(
        lambda h, epsilon: (-_log_sum(h, epsilon)).exp(), lambda h, epsilon: -(h - 2 * _log_sum(h, epsilon)).exp()
    ),
    # (h - target)^2, nats^2, which keeps h at a set amount, from above and from below; and 2 (h - target)
    "target": Form(lambda h, target: (h - target).square(), lambda h, target: 2 * (h - target)),
}


@dataclass(frozen=True)
class LossTerm:
    """The loss term of the layers of one kind."""

    form: FormName
    options: LoopOptions

    def value(self, layer: Layer, h: Tensor) -> Tensor:
        """Returns the term of each h of a layer, unreduced."""
        return FORMS[self.form].value(h / self._divisor(layer), self._constant(layer))

    def slope(self, layer: Layer, h: Tensor, weight: float) -> Tensor:
        """Returns the derivative by h of `weight` times the mean of the terms of a layer.

        A tap below the floor has the slope at the floor, which bounds it. The form `target` has no such pole, and
        must see the true h to move it to a target below the floor.
        """
        if self.form != "target" and not MEASURES[layer.measure].of_matrices:
            h = h.clamp_min(math.log(TAP_FLOOR))
        divisor = self._divisor(layer)
        return FORMS[self.form].slope(h / divisor, self._constant(layer)) * (weight / (divisor * h.numel()))

    def _divisor(self, layer: Layer) -> int:
        return layer.dimensions if self.options.scale == "per_dimension" else 1

    def _constant(self, layer: Layer) -> float:
        if self.form != "target":
            return self.options.epsilon
        return self.options.target * (layer.dimensions // self._divisor(layer))
