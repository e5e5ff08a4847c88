"""A plain convolutional network: 3x3 convolutions, one dense hidden layer, logits; no norm, no skip connection."""

from dataclasses import replace

from torch import Tensor, nn

from . import require_sizes
from .blocks import ACTIVATIONS, NormActivationDropout, conv_layers, require_downsample, strides

GRID = 2  # pixels; the last feature maps are averaged to at most GRID x GRID before the dense layers


class CNN(nn.Module):
    """3x3 'same' convolutions, an average over a 2x2 grid, one dense hidden layer, the output layer.

    ``depth`` is the number of convolutional layers and ``width`` the channels of every one of them. The layers form
    ``downsample + 1`` stages of equal length (up to rounding); each stage but the first begins with a stride of 2, so
    a 32x32 image ends as 8x8 with the default ``downsample``. Depth 4, width 16 on CIFAR-10: 16 @ 32x32, 16 @ 16x16,
    16 @ 8x8, 16 @ 8x8, average to 2x2, 64-64-10. Raises ValueError for sizes or options that the family cannot have.

    Args:
        downsample: Layers that halve the image's height and width; 0 is none.
        hidden: Units of the dense hidden layer; None leaves it out.
        dropout: Share of the output layer's inputs that is zeroed while training.
    """

    task = "classification"

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        in_shape: tuple[int, int, int],
        num_outputs: int,
        downsample: int = 2,
        hidden: int | None = 64,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs)
        require_downsample(downsample, depth, in_shape)
        if hidden is not None:
            require_sizes(in_shape, hidden=hidden)
        between = replace(NormActivationDropout(activation, dropout, batch_norm), dropout=0.0)
        super().__init__()
        self.conv = conv_layers([in_shape[0]] + [width] * depth, strides(depth, downsample), between)
        rows, columns = (min(GRID, -(-side // 2**downsample)) for side in in_shape[1:])
        self.pool = nn.AdaptiveAvgPool2d((rows, columns))
        features = width * rows * columns
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden or features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits [B, num_outputs] of images [B, C, H, W]."""
        x = self.pool(self.conv(x)).flatten(1)
        if self.hidden is not None:
            x = self.activation(self.hidden(x))
        logits: Tensor = self.output(self.dropout(x))
        return logits
