"""The residual networks for small images: those of the CIFAR experiments, and ResNet-18 and 34 (arXiv 1512.03385)."""

from torch import Tensor, nn
from torch.nn import functional as F

from . import require_sizes
from .blocks import ACTIVATIONS, NormActivationDropout

# Blocks of each stage, by depth: 6 n + 2 layers have n blocks in each of 3 stages.
CIFAR = {6 * n + 2: (n, n, n) for n in (3, 5, 7, 9, 18)}
IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DEPTHS = CIFAR | IMAGENET
LARGE = 64  # pixels of the shorter side, above which ResNet-18 and 34 begin as for ImageNet


class ResNet(nn.Module):
    """Residual blocks of two 3x3 convolutions, in stages; each but the first halves the image and doubles the channels.

    ``depth`` counts layers as the paper does and chooses the kind; ``width`` is the channels of the first stage:

        depth 20, 32, 44, 56, 110    3 stages, shortcuts without weights (option A); the paper's width is 16
        depth 18, 34                 4 stages, a 1x1 convolution where a shortcut resizes (option B); width 64

    The first layer is a 3x3 convolution of stride 1. Only depth 18 and 34 on images above 64 pixels begin as for
    ImageNet, with a 7x7 convolution and a max-pool, each of stride 2. At the end come the average over the image and
    the output layer. Parameters of depth 18 and 34 have torchvision's names. The blocks are our own: torchvision's have
    ReLU alone, lack biases if there is no norm, and cost every worker two seconds of imports. Raises ValueError for
    sizes or options that the family cannot have.

    Args:
        dropout: Share of the output layer's inputs that is zeroed while training.
        batch_norm: Normalise after every convolution; without it they have biases, and the deeper ones hardly train.
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
        batch_norm: bool = True,
    ):
        require_sizes(in_shape, depth=depth, width=width, num_outputs=num_outputs)
        if depth not in DEPTHS:
            raise ValueError(f"depth = {depth}: must be one of {', '.join(map(str, sorted(DEPTHS)))}")
        between = NormActivationDropout(activation, dropout, batch_norm)
        super().__init__()
        large = depth in IMAGENET and min(in_shape[1:]) > LARGE
        side, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(in_shape[0], width, side, stride=stride, padding=side // 2, bias=not batch_norm)
        self.bn1 = _norm(width, between)
        self.activation = ACTIVATIONS[activation]()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.stages = [f"layer{k + 1}" for k in range(len(DEPTHS[depth]))]
        channels = [width] + [width << k for k in range(len(self.stages))]
        for k, (name, blocks) in enumerate(zip(self.stages, DEPTHS[depth], strict=True)):
            first = Block(channels[k], channels[k + 1], 2 if k else 1, between, project=depth in IMAGENET)
            others = [Block(channels[k + 1], channels[k + 1], 1, between, project=False) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(first, *others))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits [B, num_outputs] of images [B, C, H, W]."""
        x = self.maxpool(self.activation(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which projects or pads with zero channels if the sizes change."""

    def __init__(self, channels_in: int, channels: int, stride: int, between: NormActivationDropout, *, project: bool):
        super().__init__()
        bias = not between.batch_norm
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = _norm(channels, between)
        self.activation = ACTIVATIONS[between.activation]()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn2 = _norm(channels, between)
        self.stride, self.added = stride, channels - channels_in
        self.downsample = None
        if project and (stride > 1 or self.added):
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=bias)
            self.downsample = nn.Sequential(projection, _norm(channels, between))

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [B, channels, H / stride, W / stride], rounded up, of features [B, channels_in, H, W]."""
        y = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.added:
            before = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))
        out: Tensor = self.activation(y + x)
        return out


def _norm(channels: int, between: NormActivationDropout) -> nn.Module:
    return nn.BatchNorm2d(channels) if between.batch_norm else nn.Identity()
