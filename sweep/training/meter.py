"""Accumulates the metrics of an epoch, batch by batch."""

import math

import torch
from torch import Tensor

from ..losses.metrics import EpochMetric, new_accumulator
from ..losses.task import Task
from .distributed import Ranks

METER_BUFFER = 2**22  # numbers, 16 MB of float32; an epoch of 54,000 images and 10 classes fits


class Meter:
    """Accumulates an epoch's loss and metrics in memory that does not grow with the epoch.

    Outputs are kept until they fill a buffer and counted together: most epochs are counted, and the device is read,
    once. Metrics of the user's own are updated with each buffer; see `losses.metrics` for how they accumulate.
    With ``ranks`` each process adds its share of the batches, and the metrics are those of all; metrics of the user's
    own are computed by rank 0 alone, from the outputs of all, and are not a number on the others.

    Example:
        >>> from sweep.losses.task import TASKS
        >>> meter = Meter(TASKS["classification"])
        >>> meter.update(torch.tensor(0.5), torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> meter.compute("val")
        {'val_loss': 0.5, 'val_accuracy': 0.5}
    """

    def __init__(self, task: Task, ranks: Ranks | None = None):
        self._task, self._ranks = task, ranks
        self._losses: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._compared: list[tuple[Tensor, Tensor]] = []  # outputs and targets, for the user's own metrics
        self._kept = 0  # numbers in the buffer
        self._updates = {name: metric.update for name, metric in task.metrics.items() if metric.update is not None}
        self._counts: dict[str, Tensor] = {}
        self._custom: dict[str, EpochMetric] = {}

    def update(self, loss: Tensor, output: Tensor, labels: Tensor, images: Tensor | None = None) -> None:
        """Adds one batch: its mean loss [], and labels or masks; only metrics of the user's own use the images."""
        self._losses.append(loss.detach())
        self._labels.append(labels)
        self._kept += labels.numel()
        if self._updates:
            self._outputs.append(output.detach())
        if self._updates or self._task.custom_metrics:
            self._kept += output.numel()
        if self._task.custom_metrics:
            targets = labels if images is None else self._task.target(images, labels)
            if self._ranks is not None:
                output, targets = self._ranks.gather(output.detach()), self._ranks.gather(targets)
            self._compared.append((output.detach(), targets))
            self._kept += targets.numel()
        if self._kept > METER_BUFFER:
            self._flush()

    def compute(self, prefix: str) -> dict[str, float]:
        """Returns the epoch's metrics, named ``prefix_loss`` and so on."""
        self._flush()
        weights = torch.cat(self._weights)
        total, weight = torch.stack(self._losses).float() @ weights, weights.sum()
        if self._ranks is not None:
            self._ranks.add(total, weight, *self._counts.values())
        loss = total / weight
        metrics = self._task.metrics.items()
        values = [metric.compute(self._counts.get(name, loss), loss).float() for name, metric in metrics]
        with torch.inference_mode():
            custom = [float(metric.compute()) for metric in self._custom.values()]
        if self._ranks is not None and self._ranks.rank > 0:
            custom = [math.nan] * len(self._task.custom_metrics)
        names = (f"{prefix}_{name}" for name in self._task.metric_names)
        return dict(zip(names, torch.stack([loss, *values]).tolist() + custom, strict=True))

    def _flush(self) -> None:
        if not self._labels:
            return
        weights = [float(self._task.weight(labels)) for labels in self._labels]
        self._weights.append(torch.tensor(weights, device=self._losses[0].device))
        outputs = torch.cat(self._outputs) if self._outputs else torch.empty(0)
        labels = torch.cat(self._labels) if self._updates else torch.empty(0)
        for name, update in self._updates.items():
            counts = update(outputs, labels)
            self._counts[name] = self._counts[name] + counts if name in self._counts else counts
        if self._compared and (self._ranks is None or self._ranks.rank == 0):
            self._update_custom(*(torch.cat(tensors) for tensors in zip(*self._compared, strict=True)))
        self._outputs, self._labels, self._compared, self._kept = [], [], [], 0

    # Evaluation runs in inference mode: a metric's state that was made in it could not be changed outside of it.
    @torch.inference_mode()
    def _update_custom(self, outputs: Tensor, targets: Tensor) -> None:
        for name, metric in self._task.custom_metrics.items():
            if name not in self._custom:
                self._custom[name] = new_accumulator(metric, outputs.device)
                if hasattr(self._custom[name], "sync_on_compute"):  # torchmetrics would wait for the other ranks
                    setattr(self._custom[name], "sync_on_compute", False)  # noqa: B010
            self._custom[name].update(outputs, targets)
