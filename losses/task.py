"""The tasks that a network is trained for, guidance aside: their losses and metrics, in one table, `TASKS`."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .metrics import IGNORED, CustomMetric, Metric, confusion, hits, mean_iou, psnr, share_of_hits

CustomLoss = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> mean over the batch
Batches = Iterable[tuple[Tensor, Tensor]]  # images [B, C, H, W], and labels [B] or masks [B, H, W]


@dataclass(frozen=True)
class Task:
    """A kind of task."""

    loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]  # (output, images, labels, smoothing) -> mean loss []
    metrics: Mapping[str, Metric]  # the built-in ones beside the loss
    weight: Callable[[Tensor], Tensor | int]  # (labels of a batch) -> the number of terms that its mean loss is over
    targets: Literal["labels", "masks"] | None  # the data that it needs beside the images
    constant: Callable[[Batches, int], Tensor]  # (epoch, number of classes) -> constant output of least loss [1, ...]
    normalizes: bool  # the model takes images of mean 0 and deviation 1; else in [0, 1]
    custom_metrics: Mapping[str, CustomMetric] = field(default_factory=dict)  # the user's own

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of all metrics, to be prefixed with ``train_``, ``val_`` or ``test_``."""
        return ("loss", *self.metrics, *self.custom_metrics)

    def target(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns what the output is compared with: the labels, the masks, or the images themselves."""
        return images if self.targets is None else labels

    def output_shape(self, batch: int, in_shape: tuple[int, int, int], classes: int) -> tuple[int, ...]:
        """Returns the shape that the output for a batch of images [C, H, W] must have."""
        shapes = {"labels": (batch, classes), "masks": (batch, classes, *in_shape[1:]), None: (batch, *in_shape)}
        return shapes[self.targets]


def _image_loss(output: Tensor, _images: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(output, labels, label_smoothing=smoothing)


def _pixel_loss(output: Tensor, _images: Tensor, masks: Tensor, smoothing: float) -> Tensor:
    """Returns the mean cross-entropy [] over the pixels that count; 0 if there is none."""
    total = F.cross_entropy(output, masks, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
    return total / _counted(masks).clamp(min=1)


def _counted(masks: Tensor) -> Tensor:
    return (masks != IGNORED).sum()


def _mean_squared_error(output: Tensor, images: Tensor, _labels: Tensor, _smoothing: float) -> Tensor:
    return F.mse_loss(output, images)


def _class_frequencies(batches: Batches, classes: int) -> Tensor:
    """Returns the logits [1, K] of the class frequencies."""
    counts = torch.zeros(classes, dtype=torch.float64)
    for _, labels in batches:
        counts += labels.bincount(minlength=classes)
    return (counts / counts.sum()).log().float()[None]


def _pixel_frequencies(batches: Batches, classes: int) -> Tensor:
    """Returns the logits [1, K, 1, 1] of the class frequencies among the pixels that count."""
    counted = ((images, masks[masks != IGNORED]) for images, masks in batches)
    return _class_frequencies(counted, classes)[:, :, None, None]


def _mean_image(batches: Batches, _classes: int) -> Tensor:
    total, count = torch.zeros(1, dtype=torch.float64), 0
    for images, _ in batches:
        total, count = total + images.double().sum(0), count + len(images)
    return (total / count).float()[None]


TASKS = {
    "classification": Task(
        _image_loss, {"accuracy": Metric(share_of_hits, hits)}, len, "labels", _class_frequencies, normalizes=True
    ),
    "segmentation": Task(
        _pixel_loss, {"iou": Metric(mean_iou, confusion)}, _counted, "masks", _pixel_frequencies, normalizes=True
    ),
    "reconstruction": Task(_mean_squared_error, {"psnr": Metric(psnr)}, len, None, _mean_image, normalizes=False),
}


def customise(task: Task, loss: CustomLoss | None, metrics: Mapping[str, CustomMetric]) -> Task:
    """Returns a task with a loss and metrics of the user's own.

    A metric that is a function of the built-in loss is left out if there is another loss. Labels are not smoothed: that
    is for the loss to do. None keeps the task's loss.
    """
    if loss is None:
        return dataclasses.replace(task, custom_metrics=metrics) if metrics else task
    custom_loss = loss

    def replaced(output: Tensor, images: Tensor, labels: Tensor, _smoothing: float) -> Tensor:
        return custom_loss(output, task.target(images, labels))

    counted = {name: metric for name, metric in task.metrics.items() if metric.update is not None}
    return dataclasses.replace(task, loss=replaced, metrics=counted, custom_metrics=metrics)
