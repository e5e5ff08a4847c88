"""Accumulates the metrics of an epoch, batch by batch."""

import torch
from torch import Tensor

from ..losses.metrics import EpochMetric, new_accumulator
from ..losses.task import Task

METER_BUFFER = 2**22  # numbers, 16 MB of float32; an epoch of 54,000 images and 10 classes fits


class Meter:
    """Accumulates an epoch's loss and metrics in memory that does not grow with the epoch.

    Outputs are kept until they fill a buffer and counted together: most epochs are counted, and the device is read,
    once. Metrics of the user's own are updated with each buffer; see `losses.metrics` for how they accumulate.

    Example:
        >>> from sweep.losses.task import TASKS
        >>> meter = Meter(TASKS["classification"])
        >>> meter.update(torch.tensor(0.5), torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> meter.compute("val")
        {'val_loss': 0.5, 'val_accuracy': 0.5}
    """

    def __init__(self, task: Task):
        self._task = task
        self._losses: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._kept = 0  # numbers in the buffer
        self._updates = {name: metric.update for name, metric in task.metrics.items() if metric.update is not None}
        self._counts: dict[str, Tensor] = {}
        self._custom: dict[str, EpochMetric] = {}

    def update(self, loss: Tensor, output: Tensor, labels: Tensor, images: Tensor | None = None) -> None:
        """Adds one batch: its mean loss [], and labels or masks; only metrics of the user's own use the images."""
        self._losses.append(loss.detach())
        self._labels.append(labels)
        self._kept += labels.numel()
        if self._updates or self._task.custom_metrics:
            self._outputs.append(output.detach())
            self._kept += output.numel()
        if self._task.custom_metrics:
            self._targets.append(labels if images is None else self._task.target(images, labels))
            self._kept += self._targets[-1].numel()
        if self._kept > METER_BUFFER:
            self._flush()

    def compute(self, prefix: str) -> dict[str, float]:
        """Returns the epoch's metrics, named ``prefix_loss`` and so on."""
        self._flush()
        weights = torch.cat(self._weights)
        loss = torch.stack(self._losses).float() @ weights / weights.sum()
        metrics = self._task.metrics.items()
        values = [metric.compute(self._counts.get(name, loss), loss).float() for name, metric in metrics]
        with torch.inference_mode():
            custom = [float(metric.compute()) for metric in self._custom.values()]
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
        if self._task.custom_metrics:
            self._update_custom(outputs, torch.cat(self._targets))
        self._outputs, self._labels, self._targets, self._kept = [], [], [], 0

    # Evaluation runs in inference mode: a metric's state that was made in it could not be changed outside of it.
    @torch.inference_mode()
    def _update_custom(self, outputs: Tensor, targets: Tensor) -> None:
        for name, metric in self._task.custom_metrics.items():
            if name not in self._custom:
                self._custom[name] = new_accumulator(metric, outputs.device)
            self._custom[name].update(outputs, targets)
