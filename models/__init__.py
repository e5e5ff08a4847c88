"""Builds networks of a family from their depth and width: a literal table of families, and `build_model`.

Importing this package imports no torch; a family is loaded on demand. It refuses impossible sizes before it allocates a
weight, so that building under ``torch.device("meta")`` is a cheap check.
"""

import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, str] = {
    "mlp": ".mlp:MLP",
    "autoencoder": ".autoencoder:Autoencoder",
    "cnn": ".cnn:CNN",
    "conv_autoencoder": ".conv_autoencoder:ConvAutoencoder",
    "resnet": ".resnet:ResNet",
    "unet": ".unet:UNet",
}

# Options of all families; the docstring of a family says where it differs.
SHARED_OPTIONS = {
    "activation": "relu, leaky_relu, elu, gelu, silu or tanh.",
    "dropout": "Share of every hidden layer's values that is zeroed while training.",
    "batch_norm": "Normalise after every layer, before its activation.",
}

SIZES = ("depth", "width", "in_shape", "num_outputs")


def model_class(name: str) -> "type[nn.Module]":
    """Returns the class of a family, or of an import path ``package.module:Class``; raises ValueError for others."""
    if name not in MODELS and ":" not in name:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}, or package.module:Class")
    cls: type[nn.Module] = pkgutil.resolve_name(f"{__name__}{MODELS[name]}" if name in MODELS else name)
    return cls


def options(name: str) -> dict[str, inspect.Parameter]:
    """Returns a family's own keyword options beyond the four sizes, with ``**rest`` if its class takes any keyword."""
    parameters = inspect.signature(model_class(name)).parameters
    return {key: p for key, p in parameters.items() if key not in SIZES and p.kind is not p.VAR_POSITIONAL}


def takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Returns True if there is a ``**rest`` among the parameters."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def build_model(
    name: str, *, depth: int, width: int, in_shape: tuple[int, int, int], num_outputs: int, **own_options: Any
) -> "nn.Module":
    """Builds a model of a family, with PyTorch's own initialisation.

    Raises ValueError for an unknown name or option, or sizes that the family cannot have.

    Args:
        name: A key of ``MODELS``, or the import path of a class of the user's own.
        depth: Layers, as the family counts them.
        width: Units or channels of a layer.
        in_shape: Channels, height and width of an image.
        num_outputs: Classes; a family that reconstructs its input does not use it.

    Example:
        >>> model = build_model("mlp", depth=2, width=128, in_shape=(1, 28, 28), num_outputs=10)
        >>> [tuple(weight.shape) for name, weight in model.named_parameters() if name.endswith("weight")]
        [(128, 784), (128, 128), (10, 128)]
    """
    cls = model_class(name)
    known = options(name)
    for key in own_options:
        if key not in known and not takes_any(known):
            raise ValueError(f"{key}: {name} has no such option; its options: {', '.join(known) or 'none'}")
    return cls(depth=depth, width=width, in_shape=in_shape, num_outputs=num_outputs, **own_options)


def require_sizes(in_shape: tuple[int, int, int], **sizes: int) -> None:
    """Raises ValueError for the first size that is not an integer of at least 1; every family calls it first."""
    if len(in_shape) != 3 or not all(_is_size(side) for side in in_shape):
        raise ValueError(f"in_shape = {in_shape!r}: must be three integers of at least 1, (channels, height, width)")
    for name, value in sizes.items():
        if not _is_size(value):
            raise ValueError(f"{name} = {value!r}: must be an integer of at least 1")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
