"""Accumulates the metrics of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses.task import Task

METER_BUFFER = 2**22  # numbers, 16 MB of float32; an epoch of 54,000 images and 10 classes fits


class Meter:
    """Adds up an epoch's losses and what its metric counts, in memory that does not grow with the epoch.

    Outputs are kept until they fill a buffer and counted together: most epochs are counted, and the device read, once.
    Metrics of the user's own, which do not add up, are taken of each buffer; their mean over the images is reported.
    """

    def __init__(self, task: Task):
        self._task = task
        self._losses: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._kept = 0
        self._counts: Tensor | int = 0
        self._own = dict.fromkeys(task.own, 0.0)
        self._images = 0

    def update(self, loss: Tensor, output: Tensor, labels: Tensor, images: Tensor | None = None) -> None:
        """Adds one batch: its mean loss, the model's output, the labels [B] or masks [B, H, W].

        Args:
            images: [B, C, H, W], which only metrics of the user's own may compare with.
        """
        self._losses.append(loss.detach())
        self._labels.append(labels)
        self._kept += labels.numel()
        if self._task.count is not None or self._own:
            self._outputs.append(output.detach())
            self._kept += output.numel()
        if self._own:
            self._targets.append(labels if images is None else self._task.target(images, labels))
            self._kept += self._targets[-1].numel()
        if self._kept > METER_BUFFER:
            self._flush()

    def compute(self, prefix: str) -> dict[str, float]:
        """Means over the images, or over what else the task counts."""
        self._flush()
        weights = torch.cat(self._weights)
        loss = torch.stack(self._losses).float() @ weights / weights.sum()
        values = [loss, self._task.read(torch.as_tensor(self._counts), loss).float()] if self._task.score else [loss]
        own = [total / self._images for total in self._own.values()]
        return {f"{prefix}_{n}": v for n, v in zip(self._task.metrics, torch.stack(values).tolist() + own, strict=True)}

    def _flush(self) -> None:
        """Counts what is in the buffer, and empties it."""
        if not self._labels:
            return
        weights = [float(self._task.weight(y)) for y in self._labels]
        self._weights.append(torch.tensor(weights, device=self._losses[0].device))
        outputs = torch.cat(self._outputs) if self._outputs else torch.empty(0)
        if self._task.count is not None:
            self._counts = self._counts + self._task.count(outputs, torch.cat(self._labels))
        if self._own:
            targets = torch.cat(self._targets)
            with torch.no_grad():
                for name, metric in self._task.own.items():
                    self._own[name] += float(metric(outputs, targets)) * len(targets)
            self._images += len(targets)
        self._outputs, self._labels, self._targets, self._kept = [], [], [], 0
