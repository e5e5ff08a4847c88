"""The guidance gradients of the guided layers: computed in turn, kept, capped and added at every step."""

import math
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from .layers import Layer
from .terms import LossTerm

NEGLIGIBLE = 1e-30  # a gradient norm that is as good as 0


class GradientCache:
    """The lambda-weighted guidance gradients of some layers.

    Args:
        layers: The guided layers.
        terms: The loss term of each layer.
        weights: The factor of each layer's term in the loss: lambda, over the number of layers for a mean.
        intervals: Steps between two computations of each layer's gradient; they are staggered over the layers.
        ridge: See `entropy.volume`.
        max_ratio: Cap on their norm relative to the task's, over the guided weights; None: no cap.

    Attributes:
        skipped: The number of gradients [] that were left out because they were not finite, since `reset_skipped`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        terms: Sequence[LossTerm],
        weights: Sequence[float],
        *,
        intervals: Sequence[int],
        ridge: float,
        max_ratio: float | None,
    ) -> None:
        self._layers, self._terms, self._weights = layers, terms, weights
        self._ridge, self._max_ratio = ridge, max_ratio
        self._due = _staggered(intervals)
        self._targets = [target for layer in layers for target in layer.targets]
        self._cached: list[list[Tensor]] = [[] for _ in layers]  # one gradient for each target of each layer
        self._flat: list[Tensor] = []  # the same in one list
        self._norm = torch.zeros(())  # norm of all that is cached
        self._largest = 0  # the target whose task gradient was the largest one when all were last read
        self._expired = True
        self.reset_skipped()

    def expire(self) -> None:
        """Makes the next `add` compute the gradients of all layers."""
        self._expired = True

    def reset_skipped(self) -> None:
        """Sets the count of gradients that were left out to 0."""
        self.skipped = torch.zeros((), dtype=torch.int64)

    def add(self, step: int, *, sample: bool) -> Tensor | None:
        """Adds the guidance gradients to `.grad`, those that are due freshly computed.

        Args:
            step: Steps of this epoch so far, from 0.
            sample: Also measure the gradients, before the cap.

        Returns:
            The norm of the guidance gradient and its ratio to the task's, [2], if `sample`; else None.
        """
        due = range(len(self._layers)) if self._expired else self._due[step % len(self._due)]
        self._expired = False
        for index in due:
            self._compute(index)
        if due:
            self._flat = list(chain.from_iterable(self._cached))
            self._norm = norm_of(self._flat)
        gradients = [gradient_of(parameter) for parameter, _ in self._targets]
        targets = [view(gradient) for (_, view), gradient in zip(self._targets, gradients, strict=True)]
        reading = None
        if sample:
            ratio = self._norm / norm_of(gradients).clamp_min(NEGLIGIBLE)
            reading = torch.stack([self._norm, ratio])
        share = 1.0 if self._max_ratio is None else self._share_within(self._max_ratio, gradients)
        if isinstance(share, Tensor):
            torch._foreach_addcmul_(targets, self._flat, [share] * len(targets))
        else:
            torch._foreach_add_(targets, self._flat, alpha=share)
        return reading

    def _compute(self, index: int) -> None:
        """Computes and keeps the gradient of one layer; keeps zeros if it is not finite."""
        layer, term, weight = self._layers[index], self._terms[index], self._weights[index]
        h, gradients = layer.gradient(self._ridge, lambda h: term.slope(layer, h, weight))
        skipped = ~(norm_of(gradients) + h.sum()).isfinite()
        self.skipped = self.skipped + skipped
        parameters = zip(gradients, layer.parameters, strict=True)
        self._cached[index] = [gradient.masked_fill_(skipped, 0).to(p.dtype) for gradient, p in parameters]

    def _share_within(self, max_ratio: float, gradients: list[Tensor]) -> float | Tensor:
        """Returns the share of the guidance gradient, up to 1, that the cap allows beside the task's gradients."""
        if self._norm.device.type != "cpu":  # reading a number would make a GPU wait at every step
            return (max_ratio * norm_of(gradients) / self._norm.clamp_min(NEGLIGIBLE)).clamp_max(1.0)
        needed = float(self._norm) / max_ratio
        # The norm of a part is at most that of the whole: if a part is large enough, nothing else need be read.
        largest = gradients[self._largest]
        if float(torch.linalg.vector_norm(largest[: 1 + len(largest) // 8])) >= needed:
            return 1.0
        norms = [float(norm) for norm in torch._foreach_norm(gradients)]
        self._largest = max(range(len(norms)), key=norms.__getitem__)
        return min(1.0, math.hypot(*norms) / max(needed, NEGLIGIBLE))


def _staggered(intervals: Sequence[int]) -> list[list[int]]:
    """Returns the layers that are due at each step of a cycle, so that few are due at the same step."""
    due: list[list[int]] = [[] for _ in range(max(intervals, default=1))]
    for index, interval in enumerate(intervals):
        for step in range(index * interval // len(intervals), len(due), interval):
            due[step].append(index)
    return due


def gradient_of(weight: nn.Parameter) -> Tensor:
    """Returns the weight's `.grad`, which is set to zeros if the task gave it none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def norm_of(tensors: list[Tensor]) -> Tensor:
    """Returns the Euclidean norm [] of all numbers of some tensors."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
