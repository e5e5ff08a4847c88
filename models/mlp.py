"""A multilayer perceptron: the image as one vector, hidden layers of equal width, logits."""

from math import prod

from torch import Tensor, nn

from . import require_sizes
from .blocks import NormActivationDropout, dense_layers


class MLP(nn.Module):
    """Dense layers with an activation between them.

    ``depth`` is the number of hidden layers and ``width`` the units of each, so there are ``depth + 1`` weight
    matrices, ``depth - 1`` of them square: depth 2, width 128 on MNIST is 784-128-128-10.
    Raises ValueError for sizes or options that the family cannot have.
    """

    task = "classification"

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        in_shape: tuple[int, int, int],
        num_outputs: int,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs)
        between = NormActivationDropout(activation, dropout, batch_norm)
        super().__init__()
        self.hidden = dense_layers([prod(in_shape)] + [width] * depth, between)
        self.output = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits [B, num_outputs] of images [B, C, H, W]."""
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits
