"""Dense, symmetric autoencoder: the image through a narrow code and back; the protocol of the guidance experiments."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

from torch import nn
from torch.nn import functional as F

from . import require_sizes

if TYPE_CHECKING:
    from torch import Tensor


class Autoencoder(nn.Module):
    """Dense layers with ReLU between them, also on the code, and a sigmoid on the output.

    ``depth`` is the number of weight matrices, even, half of them in the encoder. ``width`` is the first hidden layer;
    the following ones halve towards ``latent`` and never go below it; the decoder mirrors the encoder. On MNIST with
    the default ``latent``:

        depth 2              784-32-784 (there is no hidden layer beside the code, so ``width`` does not act)
        depth 4, width 128   784-128-32-128-784
        depth 8, width 256   784-256-128-64-32-64-128-256-784
        depth 8, width 64    784-64-32-32-32-32-32-64-784

    Args:
        depth: weight layers, an even number of at least 2.
        width: units of the first hidden layer, at least ``latent`` (any at depth 2).
        in_shape: image shape [C, H, W], values in [0, 1].
        num_outputs: not used: the output has the shape of the input.
        latent: units of the code.

    Raises:
        ValueError: a size that is not an integer of at least 1, an odd depth, or a width below ``latent``.
    """

    task: ClassVar[str] = "reconstruction"

    def __init__(self, *, depth: int, width: int, in_shape: tuple[int, int, int], num_outputs: int, latent: int = 32):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs, latent=latent)
        if depth % 2:
            raise ValueError(f"depth = {depth}: an autoencoder's must be even, half encoder and half decoder")
        if depth > 2 and width < latent:
            raise ValueError(f"width = {width}: must be at least latent = {latent} at depth {depth}")
        super().__init__()
        hidden = [max(latent, width >> i) for i in range(depth // 2 - 1)]
        units = [prod(in_shape), *hidden, latent]
        self.encoder = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(units))
        self.decoder = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(units[::-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to their reconstructions [B, C, H, W] in [0, 1]."""
        y = x.flatten(1)
        for layer in self.encoder:
            y = F.relu(layer(y))
        *hidden, output = self.decoder
        for layer in hidden:
            y = F.relu(layer(y))
        reconstruction: Tensor = output(y).sigmoid().view(x.shape)
        return reconstruction
