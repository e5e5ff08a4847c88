"""The metrics of an epoch: the built-in ones, and those of the user's own.

Counts are whole numbers that add up over batches, so that an epoch is measured exactly in bounded memory.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

IGNORED = 255  # a pixel with this label belongs to no class: neither loss nor metric counts it, as in Pascal VOC


@dataclass(frozen=True)
class Metric:
    """A built-in metric of an epoch; without `update` it is a function of the loss alone."""

    compute: Callable[[Tensor, Tensor], Tensor]  # (counts of the epoch, mean loss of the epoch []) -> the metric []
    update: Callable[[Tensor, Tensor], Tensor] | None = None  # (output, labels) of some batches -> counts to add up


def hits(output: Tensor, labels: Tensor) -> Tensor:
    """Returns the numbers of images put in a wrong class and in the right one, [2], by logits [B, K]."""
    right = output.argmax(1) == labels
    return torch.stack([(~right).sum(), right.sum()])


def share_of_hits(hits: Tensor, _loss: Tensor) -> Tensor:
    """Returns the share [] of hits among misses and hits [2]."""
    return hits[1] / hits.sum()


def confusion(output: Tensor, masks: Tensor) -> Tensor:
    """Returns the number of pixels of each class (row) that logits [B, K, H, W] put in each class (column), [K, K]."""
    classes = output.shape[1]
    rows = torch.where(masks == IGNORED, classes, masks)  # one row more for what does not count
    pairs = rows * classes + output.argmax(1)
    return torch.bincount(pairs.flatten(), minlength=(classes + 1) * classes).view(-1, classes)[:classes]


def mean_iou(confusion: Tensor, _loss: Tensor) -> Tensor:
    """Returns intersection over union [], the mean over the classes that occur in masks or outputs of the epoch.

    Source: Everingham et al., "The Pascal Visual Object Classes Challenge", 2015, section 3.3.
    """
    right = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - right
    return (right / union)[union > 0].mean()


def psnr(_counts: Tensor, loss: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio, dB, of images in [0, 1]: -10 log10 of the mean squared error."""
    return -10 * torch.log10(loss)


class EpochMetric(Protocol):
    """A metric that accumulates an epoch: a `torchmetrics.Metric`, or any object with the same three methods."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> object:
        """Adds some batches."""

    def compute(self) -> Any:
        """Returns the metric of all that was added; `float` must accept it."""

    def reset(self) -> object:
        """Forgets all that was added."""


MetricFunction = Callable[[Tensor, Tensor], Tensor | float]  # (outputs, targets) -> one number
CustomMetric = MetricFunction | EpochMetric | type[EpochMetric]


class _MeanOverImages:
    """A function as an `EpochMetric`: the mean of its values on parts of the epoch, weighted by their images."""

    def __init__(self, function: MetricFunction) -> None:
        self._function = function
        self.reset()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self._total += float(self._function(outputs, targets)) * len(targets)
        self._images += len(targets)

    def compute(self) -> float:
        return self._total / self._images

    def reset(self) -> None:
        self._total, self._images = 0.0, 0


def new_accumulator(metric: CustomMetric, device: torch.device | str = "cpu") -> EpochMetric:
    """Returns an accumulator of one epoch for a metric of the user's own: an instance is copied, a class called."""
    if not all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset")):
        return _MeanOverImages(metric)  # type: ignore[arg-type]
    accumulator: Any = metric() if isinstance(metric, type) else copy.deepcopy(metric)
    accumulator.reset()
    return accumulator.to(device) if hasattr(accumulator, "to") else accumulator  # type: ignore[no-any-return]
