"""The loss term of a layer: a form of its entropy change h at a scale, as a value and as a slope."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .layers import Layer
from .options import FormName


class Form(NamedTuple):
    """A loss term of an entropy change h, elementwise, and its derivative by h; both are called as f(h, constant)."""

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]


def log_term(h: Tensor, _constant: float) -> Tensor:
    """Returns -h; this form has no constant."""
    return -h


def log_slope(h: Tensor, _constant: float) -> Tensor:
    """Returns the derivative of `log_term` by h: -1."""
    return -torch.ones_like(h)


def reciprocal_term(h: Tensor, epsilon: float) -> Tensor:
    """Returns 1 / (exp(h) + epsilon), the paper's stable term: 1 / (|det W'| + epsilon), 1 / (|c11| + epsilon).

    Source: arXiv 2308.14938.

    Example:
        >>> reciprocal_term(torch.tensor([0.0, -100.0]), 0.5)
        tensor([0.6667, 2.0000])
    """
    return (-_log_sum(h, epsilon)).exp()


def reciprocal_slope(h: Tensor, epsilon: float) -> Tensor:
    """Returns the derivative of `reciprocal_term` by h: -exp(h) / (exp(h) + epsilon)^2."""
    return -(h - 2 * _log_sum(h, epsilon)).exp()


def target_term(h: Tensor, target: float) -> Tensor:
    """Returns (h - target)^2, nats^2: it keeps the entropy change at a set amount, from above and from below."""
    return (h - target).square()


def target_slope(h: Tensor, target: float) -> Tensor:
    """Returns the derivative of `target_term` by h: 2 (h - target)."""
    return 2 * (h - target)


FORMS: dict[FormName, Form] = {
    "log": Form(log_term, log_slope),
    "reciprocal": Form(reciprocal_term, reciprocal_slope),
    "target": Form(target_term, target_slope),
}


@dataclass(frozen=True)
class LossTerm:
    """The loss term of the layers of one kind; the attributes are options of `EntropyGuidance`."""

    form: FormName
    epsilon: float
    target: float
    per_dimension: bool

    def value(self, layer: Layer, h: Tensor) -> Tensor:
        """Returns the term of each h of a layer, unreduced."""
        return FORMS[self.form].value(h / self._divisor(layer), self._constant(layer))

    def slope(self, layer: Layer, h: Tensor, weight: float) -> Tensor:
        """Returns the derivative by h of `weight` times the mean of the terms of a layer.

        A tap below the floor takes the slope at the floor, which bounds it. The form `target` has no such pole, and
        must see the true h to move it to a target below the floor.
        """
        if layer.floor > -math.inf and self.form != "target":
            h = h.clamp_min(layer.floor)
        divisor = self._divisor(layer)
        return FORMS[self.form].slope(h / divisor, self._constant(layer)) * (weight / (divisor * h.numel()))

    def _divisor(self, layer: Layer) -> int:
        return layer.dimensions if self.per_dimension else 1

    def _constant(self, layer: Layer) -> float:
        if self.form != "target":
            return self.epsilon
        return self.target * (1 if self.per_dimension else layer.dimensions)


def _log_sum(h: Tensor, epsilon: float) -> Tensor:
    """Returns log(exp(h) + epsilon) where exp(h) may overflow or underflow."""
    return torch.logaddexp(h, torch.full_like(h, math.log(epsilon)))
