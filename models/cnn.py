"""Plain convolutional network: 3x3 convolutions, one dense hidden layer, logits; no norm, no skip connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn
from torch.nn import functional as F

from . import require_sizes

if TYPE_CHECKING:
    from torch import Tensor

GRID = 2  # the last feature maps are averaged to at most GRID x GRID before the dense layers


class CNN(nn.Module):
    """3x3 'same' convolutions with ReLU, an average over a 2x2 grid, one dense hidden layer, the output layer.

    ``depth`` is the number of convolutional layers and ``width`` the channels of every one of them. The layers form
    ``downsample + 1`` stages of equal length (up to rounding); each stage but the first begins with a stride of 2, so
    a 32x32 image ends as 8x8 with the default ``downsample``. Every layer after the first has as many channels in as
    out. Depth 4, width 16 on CIFAR-10: 16 @ 32x32, 16 @ 16x16, 16 @ 8x8, 16 @ 8x8, average to 2x2, 64-64-10.

    Args:
        depth: convolutional layers, at least ``downsample``.
        width: channels of each.
        in_shape: image shape [C, H, W], H and W at least 2 ** ``downsample``.
        num_outputs: classes.
        downsample: layers that halve the image's height and width; 0 is none.
        hidden: units of the dense hidden layer; None leaves it out.

    Raises:
        ValueError: a size that is not an integer of at least 1, more downsampling than layers or than the image allows.
    """

    task: ClassVar[str] = "classification"

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        in_shape: tuple[int, int, int],
        num_outputs: int,
        downsample: int = 2,
        hidden: int | None = 64,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs)
        _require_downsample(downsample, depth, in_shape)
        if hidden is not None:
            require_sizes(in_shape, hidden=hidden)
        super().__init__()
        strided = {k * depth // (downsample + 1) for k in range(1, downsample + 1)}
        self.conv = nn.ModuleList(
            nn.Conv2d(width if i else in_shape[0], width, 3, stride=2 if i in strided else 1, padding=1)
            for i in range(depth)
        )
        rows, columns = (min(GRID, -(-side // 2**downsample)) for side in in_shape[1:])
        self.pool = nn.AdaptiveAvgPool2d((rows, columns))
        features = width * rows * columns
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.output = nn.Linear(hidden or features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, num_outputs]."""
        for layer in self.conv:
            x = F.relu(layer(x))
        x = self.pool(x).flatten(1)
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        logits: Tensor = self.output(x)
        return logits


def _require_downsample(downsample: int, depth: int, in_shape: tuple[int, int, int]) -> None:
    """Refuse a number of downsamplings that the depth or the image cannot have."""
    if isinstance(downsample, bool) or not isinstance(downsample, int) or downsample < 0:
        raise ValueError(f"downsample = {downsample!r}: must be an integer of at least 0")
    if downsample > depth:
        raise ValueError(
            f"depth = {depth}: must be at least downsample = {downsample}, the layers that halve the image"
        )
    _, height, width = in_shape
    allowed = min(height, width).bit_length() - 1
    if downsample > allowed:
        raise ValueError(
            f"downsample = {downsample}: at most {allowed} for an image of {height}x{width} (depth = {depth})"
        )
