"""The guidance gradients of the guided layers: computed in turn, kept, capped and added at every step."""

import math
from collections.abc import Sequence
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .layers import Layer
from .options import LoopOptions
from .terms import LossTerm

NEGLIGIBLE = 1e-30  # a gradient norm that is as good as 0


class GradientCache:
    """The lambda-weighted guidance gradients of some layers; each layer's term has its factor in the loss beside it.

    The processes of a group divide the layers among them: each gradient is computed by one, and sent to the others.
    """

    def __init__(
        self,
        guided: Sequence[tuple[Layer, LossTerm, float]],
        options: LoopOptions,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._group = group
        self._guided, self._ridge, self._max_ratio = guided, options.ridge, options.max_ratio
        every, size = options.every, options.batch_size
        intervals = [layer.refresh_interval(size) if every == "auto" else every for layer, _, _ in guided]
        self._cycle = max(intervals, default=1)
        self._due: dict[int, list[int]] = {}  # layers by step of a cycle, staggered
        for index, interval in enumerate(intervals):
            for step in range(index * interval // len(intervals), self._cycle, interval):
                self._due.setdefault(step, []).append(index)
        self._targets = [target for layer, _, _ in guided for target in layer.targets]
        self._cached: list[list[Tensor]] = [[] for _ in guided]  # one gradient for each target of each layer
        self._flat: list[Tensor] = []  # the same in one list
        self._norm = torch.zeros(())  # norm of all that is cached
        self._largest = 0  # the target whose task gradient was the largest one when all were last read
        self.expired = True  # the next `add` computes the gradients of all layers
        self.skipped = torch.zeros((), dtype=torch.int64)  # gradients that were left out because they were not finite

    def add(self, step: int, *, sample: bool) -> Tensor | None:
        """Adds the guidance gradients to `.grad`, those that are due at this step of the epoch freshly computed.

        Returns:
            If `sample`, the norm of the guidance gradient before the cap and its ratio to the task's, [2]; else None.
        """
        due = range(len(self._guided)) if self.expired else self._due.get(step % self._cycle, ())
        self.expired = False
        if due:
            self._refresh(due)
            self._flat = list(chain.from_iterable(self._cached))
            self._norm = norm_of(self._flat)
        gradients = [gradient_of(parameter) for parameter, _ in self._targets]
        targets = [view(gradient) for (_, view), gradient in zip(self._targets, gradients, strict=True)]
        reading = None
        if sample:
            reading = torch.stack([self._norm, self._norm / norm_of(gradients).clamp_min(NEGLIGIBLE)])
        share = 1.0 if self._max_ratio is None else self._share_within(self._max_ratio, gradients)
        if isinstance(share, Tensor):
            torch._foreach_addcmul_(targets, self._flat, [share] * len(targets))
        else:
            torch._foreach_add_(targets, self._flat, alpha=share)
        return reading

    def _refresh(self, due: Sequence[int]) -> None:
        """Computes and keeps the gradients of some layers, or receives them from the processes that compute them."""
        group = self._group
        own = {index: self._compute(index) for index in due if group is None or index % group.size() == group.rank()}
        for index in due:
            gradients, skipped = own[index] if group is None else self._exchange(index, own.get(index), group)
            self._cached[index], self.skipped = gradients, self.skipped + skipped

    def _compute(self, index: int) -> tuple[list[Tensor], Tensor]:
        """Returns the gradient of one layer, zeros if it is not finite, and if that is so, []."""
        layer, term, weight = self._guided[index]
        h, gradients = layer.gradient(self._ridge, lambda h: term.slope(layer, h, weight))
        skipped = ~(norm_of(gradients) + h.sum()).isfinite()
        parameters = zip(gradients, layer.parameters, strict=True)
        return [gradient.masked_fill_(skipped, 0).to(p.dtype) for gradient, p in parameters], skipped

    def _exchange(
        self, index: int, computed: tuple[list[Tensor], Tensor] | None, group: dist.ProcessGroup
    ) -> tuple[list[Tensor], Tensor]:
        """Returns on all processes what `_compute` returned for one layer on the process that computed it."""
        parts = [view(parameter.detach()) for parameter, view in self._guided[index][0].targets]
        if computed is None:
            sent = [torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in parts]
            skipped = torch.zeros((), dtype=torch.int64, device=parts[0].device)
        else:
            sent, skipped = [gradient.contiguous() for gradient in computed[0]], computed[1].to(torch.int64)
        for tensor in (*sent, skipped):
            dist.broadcast(tensor, group=group, group_src=index % group.size())
        return sent, skipped

    def _share_within(self, max_ratio: float, gradients: list[Tensor]) -> float | Tensor:
        """Returns the share of the guidance gradient, up to 1, that the cap allows beside the task's gradients."""
        if self._norm.device.type != "cpu":  # reading a number would make a GPU wait at every step
            return (max_ratio * norm_of(gradients) / self._norm.clamp_min(NEGLIGIBLE)).clamp_max(1.0)
        needed = float(self._norm) / max_ratio
        # The norm of a part is at most that of the whole: if a part is large enough, nothing else need be read.
        largest = gradients[self._largest]
        part = largest[: 1 + len(largest) // 8] if largest.dim() else largest
        if float(torch.linalg.vector_norm(part)) >= needed:
            return 1.0
        norms = [float(norm) for norm in torch._foreach_norm(gradients)]
        self._largest = max(range(len(norms)), key=norms.__getitem__)
        return min(1.0, math.hypot(*norms) / max(needed, NEGLIGIBLE))


def gradient_of(weight: nn.Parameter) -> Tensor:
    """Returns the weight's `.grad`, which is set to zeros if the task gave it none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def norm_of(tensors: list[Tensor]) -> Tensor:
    """Returns the Euclidean norm [] of all numbers of some tensors."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
