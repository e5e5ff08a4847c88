"""A convolutional, symmetric autoencoder: strided convolutions to a dense code and back."""

from math import prod

from torch import Tensor, nn

from . import require_sizes
from .blocks import ACTIVATIONS, NormActivationDropout, conv_layers, require_downsample, strides


class ConvAutoencoder(nn.Module):
    """3x3 convolutions to a dense code of ``latent`` units and their mirror image, a sigmoid on the output.

    ``depth`` is the number of convolutional layers, even and at least 2 * ``downsample``, half of them in the encoder;
    two dense layers, to the code and from it, come on top. ``width`` is the channels of every convolution but the last.
    The strides are those of ``cnn``. Depth 4, width 16 on MNIST: 16 @ 14x14, 16 @ 7x7, 784-32-784, 16 @ 14x14,
    1 @ 28x28. Raises ValueError for sizes or options that the family cannot have.

    To undo a stride, the decoder repeats pixels and convolves. A transposed convolution takes a quarter of the
    operations, but does not mirror odd sizes, makes checkerboards (Odena et al. 2016), and is a kind of layer to which
    the convolutional entropy terms do not apply alike.

    Args:
        num_outputs: Not used: the output has the shape of the input.
        latent: Units of the code.
        downsample: Encoder layers that halve the image's height and width; 0 is none.
        dropout: Share of every hidden layer's values that is zeroed while training, those of the code not.
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
        downsample: int = 2,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs, latent=latent)
        if depth % 2:
            raise ValueError(f"depth = {depth}: an autoencoder's must be even, half encoder and half decoder")
        require_downsample(downsample, depth, in_shape, depth_each=2)
        between = NormActivationDropout(activation, dropout, batch_norm)
        super().__init__()
        steps = strides(depth // 2, downsample)
        sides = [in_shape[1:]]  # the image's size before each layer of the encoder, and after the last
        for stride in steps:
            sides.append((-(-sides[-1][0] // stride), -(-sides[-1][1] // stride)))
        features = (width, *sides[-1])

        self.encoder = conv_layers([in_shape[0]] + [width] * len(steps), steps, between)
        self.encoder.add_module("flatten", nn.Flatten())
        self.encoder.add_module("code", nn.Linear(prod(features), latent))
        self.encoder.add_module("activation", ACTIVATIONS[activation]())

        self.decoder = nn.Sequential()
        self.decoder.add_module("expand", nn.Linear(latent, prod(features)))
        self.decoder.add_module("activation", ACTIVATIONS[activation]())
        self.decoder.add_module("unflatten", nn.Unflatten(1, features))
        last = len(steps) - 1
        for i, (stride, size) in enumerate(zip(steps[::-1], sides[-2::-1], strict=True)):
            if stride > 1:
                self.decoder.add_module(f"upsample{i}", nn.Upsample(size))
            channels, bias = (width, not batch_norm) if i < last else (in_shape[0], True)
            self.decoder.add_module(str(i), nn.Conv2d(width, channels, 3, padding=1, bias=bias))
            if i < last:
                for name, module in between.after(i, width, nn.BatchNorm2d).items():
                    self.decoder.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the reconstructions [B, C, H, W], in [0, 1], of images [B, C, H, W]."""
        reconstruction: Tensor = self.decoder(self.encoder(x)).sigmoid()
        return reconstruction
