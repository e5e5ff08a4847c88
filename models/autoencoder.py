"""A dense, symmetric autoencoder: the image through a narrow code and back; used by the guidance experiments."""

from math import prod

from torch import Tensor, nn

from . import require_sizes
from .blocks import NormActivationDropout, dense_layers


class Autoencoder(nn.Module):
    """Dense layers with an activation between them, also on the code, and a sigmoid on the output.

    ``depth`` is the number of weight matrices, even, half of them in the encoder. ``width`` is the first hidden layer;
    the following ones halve towards ``latent`` and never go below it; the decoder mirrors the encoder.
    Raises ValueError for sizes or options that the family cannot have. On MNIST with the default ``latent``:

        depth 2              784-32-784 (there is no hidden layer beside the code: ``width`` has no effect)
        depth 4, width 128   784-128-32-128-784
        depth 8, width 256   784-256-128-64-32-64-128-256-784
        depth 8, width 64    784-64-32-32-32-32-32-64-784

    Args:
        num_outputs: Not used: the output has the shape of the input.
        latent: Units of the code.
    """

    task = "reconstruction"

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        in_shape: tuple[int, int, int],
        num_outputs: int,
        latent: int = 32,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs, latent=latent)
        if depth % 2:
            raise ValueError(f"depth = {depth}: an autoencoder's must be even, half encoder and half decoder")
        if depth > 2 and width < latent:
            raise ValueError(f"width = {width}: must be at least latent = {latent} at depth {depth}")
        between = NormActivationDropout(activation, dropout, batch_norm)
        super().__init__()
        hidden = [max(latent, width >> i) for i in range(depth // 2 - 1)]
        units = [prod(in_shape), *hidden, latent]
        self.encoder = dense_layers(units, between)
        self.decoder = dense_layers(units[:0:-1], between)
        self.decoder.add_module(str(depth // 2 - 1), nn.Linear(units[1], units[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the reconstructions [B, C, H, W], in [0, 1], of images [B, C, H, W]."""
        reconstruction: Tensor = self.decoder(self.encoder(x.flatten(1))).sigmoid().view(x.shape)
        return reconstruction
