"""The U-Net (arXiv 1505.04597): a class for every pixel, by a contracting and an expanding path with connections."""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import require_sizes
from .blocks import NormActivationDropout, conv_layers, max_downsamplings


class UNet(nn.Module):
    """Levels of two 3x3 convolutions, max-pooling down, 2x2 transposed convolutions up, a 1x1 convolution at the end.

    ``depth`` is the number of poolings, so there are ``depth + 1`` levels, and ``width`` the channels of the first one;
    they double with each pooling. The paper's network is depth 4, width 64. Unlike it, convolutions are 'same', so that
    the output has the size of the input, and normalised by default. Poolings round a size down that they do not divide;
    on the way up, the last row or column is repeated to the size of the connection. Raises ValueError for sizes or
    options that the family cannot have.

    Args:
        in_shape: Image shape [C, H, W], H and W at least 2 ** ``depth``.
        dropout: Share of the lowest level's output that is zeroed while training.
        batch_norm: Normalise after each 3x3 convolution, before its activation.
    """

    task = "segmentation"

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        in_shape: tuple[int, int, int],
        num_outputs: int,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = True,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs)
        if depth > (most := max_downsamplings(in_shape)):
            raise ValueError(f"depth = {depth}: at most {most} for an image of {in_shape[1]}x{in_shape[2]}")
        between = replace(NormActivationDropout(activation, dropout, batch_norm), dropout=0.0)
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        steps = pairwise([in_shape[0], *widths])
        self.down = nn.ModuleList(conv_layers([n, m, m], (1, 1), between) for n, m in steps)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(Up(m, between) for m in widths[-2::-1])
        self.output = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits [B, num_outputs, H, W] of images [B, C, H, W]."""
        skips = []
        for level in self.down[:-1]:
            skips.append(level(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.dropout(self.down[-1](x))
        for level, skip in zip(self.up, reversed(skips), strict=True):
            x = level(x, skip)
        logits: Tensor = self.output(x)
        return logits


class Up(nn.Module):
    """One level of the expanding path: doubles the image, halves the channels, joins the connection's features."""

    def __init__(self, channels: int, between: NormActivationDropout):
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.conv = conv_layers([2 * channels, channels, channels], (1, 1), between)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Returns features like ``skip`` [B, channels, H, W] from x [B, 2 channels, H // 2, W // 2]."""
        x = self.up(x)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        if rows or columns:
            x = F.pad(x, (0, columns, 0, rows), mode="replicate")
        joined: Tensor = self.conv(torch.cat([skip, x], 1))
        return joined
