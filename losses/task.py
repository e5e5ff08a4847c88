"""Task losses and their metrics: what a network is trained for, guidance aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Task:
    """A kind of task.

    Attributes:
        loss: (output, images, labels) -> mean over the batch.
        score: name of the metric that is logged beside the loss.
        summarise: (outputs and labels of an epoch's batches, the epoch's mean loss) -> that metric.
        keeps_outputs: whether `summarise` reads the outputs.
        normalizes: whether the model takes images of mean 0 and deviation 1, rather than in [0, 1].
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    score: str
    summarise: Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]
    keeps_outputs: bool
    normalizes: bool

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, to be prefixed with ``train_`` or ``val_``."""
        return ("loss", self.score)


def _cross_entropy(output: Tensor, _images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels)


def _accuracy(outputs: Sequence[Tensor], labels: Sequence[Tensor], _loss: Tensor) -> Tensor:
    return (torch.cat(tuple(outputs)).argmax(1) == torch.cat(tuple(labels))).float().mean()


def _mean_squared_error(output: Tensor, images: Tensor, _labels: Tensor) -> Tensor:
    return F.mse_loss(output, images)


def _psnr(_outputs: Sequence[Tensor], _labels: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, dB, of images in [0, 1]: -10 log10 of the mean squared error."""
    return -10 * torch.log10(loss)


TASKS = {
    "classification": Task(_cross_entropy, "accuracy", _accuracy, keeps_outputs=True, normalizes=True),
    "reconstruction": Task(_mean_squared_error, "psnr", _psnr, keeps_outputs=False, normalizes=False),
}
