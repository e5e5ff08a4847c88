"""Task losses and their metrics: what a network is trained for, guidance aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

OwnLoss = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> mean over the batch
OwnMetric = Callable[[Tensor, Tensor], Tensor | float]  # (outputs, targets) -> one number

IGNORED = 255  # a pixel with this label belongs to no class: neither loss nor metric sees it, as in Pascal VOC


@dataclass(frozen=True)
class Task:
    """A kind of task.

    Attributes:
        loss: (output, images, labels, label smoothing) -> mean over what `weight` counts in the batch.
        score: name of the metric that is logged beside the loss; None where the user's own loss leaves none.
        count: (output, labels) of one or more batches -> whole numbers that add up over an epoch; None where the
            metric is a function of the loss.
        read: (these numbers, the epoch's mean loss) -> the metric.
        weight: labels of a batch -> how many terms its mean loss is over.
        targets: what it is trained on beside the images: a label for each, a mask for each, or nothing.
        normalizes: whether the model takes images of mean 0 and deviation 1, rather than in [0, 1].
        own: the user's own metrics, by name.
    """

    loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    score: str | None
    count: Callable[[Tensor, Tensor], Tensor] | None
    read: Callable[[Tensor, Tensor], Tensor]
    weight: Callable[[Tensor], Tensor | int]
    targets: Literal["labels", "masks"] | None
    normalizes: bool
    own: Mapping[str, OwnMetric] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, to be prefixed with ``train_`` or ``val_``."""
        return ("loss", *((self.score,) if self.score else ()), *self.own)

    def target(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the output is compared with: labels, masks, or the images themselves."""
        return images if self.targets is None else labels

    def output_shape(self, batch: int, in_shape: tuple[int, int, int], classes: int) -> tuple[int, ...]:
        """The output that a batch of images [C, H, W] must have."""
        return {"labels": (batch, classes), "masks": (batch, classes, *in_shape[1:]), None: (batch, *in_shape)}[
            self.targets
        ]


def _image_loss(output: Tensor, _images: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(output, labels, label_smoothing=smoothing)


def _hits(output: Tensor, labels: Tensor) -> Tensor:
    """Images that were put in another class and in theirs, [2]."""
    hits = output.argmax(1) == labels
    return torch.stack([(~hits).sum(), hits.sum()])


def _accuracy(hits: Tensor, _loss: Tensor) -> Tensor:
    return hits[1] / hits.sum()


def _pixel_loss(output: Tensor, _images: Tensor, masks: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy over the pixels that count; 0 where there is none."""
    total = F.cross_entropy(output, masks, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
    return total / _counted(masks).clamp(min=1)


def _counted(masks: Tensor) -> Tensor:
    return (masks != IGNORED).sum()


def _confusion(output: Tensor, masks: Tensor) -> Tensor:
    """Pixels of each class (row) that were put in each class (column), [K, K]."""
    classes = output.shape[1]
    rows = torch.where(masks == IGNORED, classes, masks)  # one row more for what does not count
    pairs = rows * classes + output.argmax(1)
    return torch.bincount(pairs.flatten(), minlength=(classes + 1) * classes).view(-1, classes)[:classes]


def _iou(confusion: Tensor, _loss: Tensor) -> Tensor:
    """Intersection over union, the mean over the classes that occur in masks or outputs of the epoch.

    Everingham et al., "The Pascal Visual Object Classes Challenge", 2015, section 3.3.
    """
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return (hits / union)[union > 0].mean()


def _mean_squared_error(output: Tensor, images: Tensor, _labels: Tensor, _smoothing: float) -> Tensor:
    return F.mse_loss(output, images)


def _psnr(_counts: Tensor, loss: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, dB, of images in [0, 1]: -10 log10 of the mean squared error."""
    return -10 * torch.log10(loss)


TASKS = {
    "classification": Task(_image_loss, "accuracy", _hits, _accuracy, len, targets="labels", normalizes=True),
    "segmentation": Task(_pixel_loss, "iou", _confusion, _iou, _counted, targets="masks", normalizes=True),
    "reconstruction": Task(_mean_squared_error, "psnr", None, _psnr, len, targets=None, normalizes=False),
}


def customised(task: Task, loss: OwnLoss | None, metrics: Mapping[str, OwnMetric]) -> Task:
    """A task with a loss and metrics of the user's own.

    With a loss of another kind, a metric that is a function of the loss is no longer one, and is left out. Labels are
    not smoothed: that is for the loss to do.
    """
    if loss is None:
        return dataclasses.replace(task, own=metrics) if metrics else task
    own_loss = loss

    def replaced(output: Tensor, images: Tensor, labels: Tensor, _smoothing: float) -> Tensor:
        return own_loss(output, task.target(images, labels))

    return dataclasses.replace(task, loss=replaced, score=task.score if task.count else None, own=metrics)
