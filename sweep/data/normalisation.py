"""The normalisation of images, one module for the batches of training and for exported programs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalisation(nn.Module):
    """Converts stored images, uint8 [N, C, H, W], to the float32 [N, C, H, W] that a network takes.

    Args:
        scale: stored value that becomes 1.0.
        moments: mean and standard deviation of each channel, for images in [0, 1]; None leaves them in [0, 1].

    Example:
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
        >>> Normalisation(255, ([0.5], [0.25]))(images).flatten().tolist()
        [-2.0, 2.0]
    """

    mean: Tensor | None  # [C, 1, 1], of stored values
    std: Tensor | None

    def __init__(self, scale: int, moments: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__()
        self.scale = scale
        mean, std = (scale * torch.tensor(m).view(-1, 1, 1) for m in moments) if moments else (None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the normalised images; they and the module are on one device."""
        x = images.float()  # a copy of uint8 images, so that it may be overwritten
        return x.div_(self.scale) if self.mean is None or self.std is None else x.sub_(self.mean).div_(self.std)
