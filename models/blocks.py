"""The parts that several families share: rows of dense or convolutional layers, and the strides over the depth."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class NormActivationDropout:
    """The modules between two weight layers: a norm, the activation, dropout; raises ValueError for wrong options."""

    activation: str  # a key of ``ACTIVATIONS``
    dropout: float  # share of units that is zeroed while training, 0 <= dropout < 1; with 0 there is no such module
    batch_norm: bool  # before the activation; the layer before then has no bias, which the norm would undo

    def __post_init__(self) -> None:
        problems = []
        if self.activation not in ACTIVATIONS:
            problems.append(f"activation = {self.activation!r}: must be one of {', '.join(ACTIVATIONS)}")
        is_number = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not is_number or not 0 <= self.dropout < 1:
            problems.append(f"dropout = {self.dropout!r}: must be a number, 0 <= dropout < 1")
        if not isinstance(self.batch_norm, bool):
            problems.append(f"batch_norm = {self.batch_norm!r}: must be true or false")
        if problems:
            raise ValueError("; ".join(problems))

    def after(self, index: int, units: int, norm: Callable[[int], nn.Module]) -> dict[str, nn.Module]:
        """Returns the modules that follow weight layer ``index`` of so many units or channels, in forward order."""
        modules = {f"norm{index}": norm(units)} if self.batch_norm else {}
        modules[f"activation{index}"] = ACTIVATIONS[self.activation]()
        return modules | ({f"dropout{index}": nn.Dropout(self.dropout)} if self.dropout else {})


def dense_layers(units: Sequence[int], between: NormActivationDropout) -> nn.Sequential:
    """Returns dense layers from each number of units to the next, named 0, 1, ..., with an activation after each."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (n, m) in enumerate(pairwise(units)):
        modules[str(i)] = nn.Linear(n, m, bias=not between.batch_norm)
        modules.update(between.after(i, m, nn.BatchNorm1d))
    return nn.Sequential(modules)


def conv_layers(channels: Sequence[int], strides: Iterable[int], between: NormActivationDropout) -> nn.Sequential:
    """Returns 3x3 'same' convolutions from each number of channels to the next, named as by ``dense_layers``."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, ((n, m), stride) in enumerate(zip(pairwise(channels), strides, strict=True)):
        modules[str(i)] = nn.Conv2d(n, m, 3, stride=stride, padding=1, bias=not between.batch_norm)
        modules.update(between.after(i, m, nn.BatchNorm2d))
    return nn.Sequential(modules)


def strides(layers: int, downsample: int) -> list[int]:
    """Returns the stride of each layer: ``downsample`` + 1 equal stages, of which all but the first begin with a 2.

    Example:
        >>> strides(6, downsample=2)
        [1, 1, 2, 1, 2, 1]
    """
    first = {k * layers // (downsample + 1) for k in range(1, downsample + 1)}
    return [2 if i in first else 1 for i in range(layers)]


def require_downsample(downsample: int, depth: int, in_shape: tuple[int, int, int], *, depth_each: int = 1) -> None:
    """Raises ValueError for a ``downsample`` that the depth, ``depth_each`` for each, or the image cannot have."""
    if isinstance(downsample, bool) or not isinstance(downsample, int) or downsample < 0:
        raise ValueError(f"downsample = {downsample!r}: must be an integer of at least 0")
    if depth_each * downsample > depth:
        factor = f"{depth_each} * " if depth_each > 1 else ""
        least = f"{factor}downsample = {depth_each * downsample}"
        raise ValueError(f"depth = {depth}: must be at least {least}, for the layers that resize the image")
    allowed = max_downsamplings(in_shape)
    if downsample > allowed:
        size = "x".join(map(str, in_shape[1:]))
        raise ValueError(f"downsample = {downsample}: at most {allowed} for an image of {size} (depth = {depth})")


def max_downsamplings(in_shape: tuple[int, int, int]) -> int:
    """Returns the number of times that an image [C, H, W] can be halved before its shorter side is below one pixel."""
    return min(in_shape[1:]).bit_length() - 1
