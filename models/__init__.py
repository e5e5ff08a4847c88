"""Model families: a literal table of names, and the one way to build a model from its sizes.

Importing this package imports no torch: the driver reads names and options here, and a family is loaded on demand.
Each family is a module class that takes ``depth, width, in_shape, num_outputs`` and keyword options of its own; its
docstring says what ``depth`` and ``width`` mean. Impossible sizes are refused before any weight is allocated, so that
building under ``torch.device("meta")`` is a cheap check.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, str] = {
    "mlp": "models.mlp:MLP",
    "autoencoder": "models.autoencoder:Autoencoder",
    "cnn": "models.cnn:CNN",
    "conv_autoencoder": "models.conv_autoencoder:ConvAutoencoder",
    "resnet": "models.resnet:ResNet",
    "unet": "models.unet:UNet",
}

SIZES = ("depth", "width", "in_shape", "num_outputs")


def model_class(name: str) -> type[nn.Module]:
    """The class of a family, imported on demand.

    Raises:
        ValueError: no family has this name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    cls: type[nn.Module] = getattr(import_module(module), attribute)
    return cls


def options(name: str) -> dict[str, inspect.Parameter]:
    """A family's own keyword options beyond the four sizes, with their default and evaluated type."""
    parameters = inspect.signature(model_class(name), eval_str=True).parameters
    return {key: parameter for key, parameter in parameters.items() if key not in SIZES}


def build_model(
    name: str, *, depth: int, width: int, in_shape: tuple[int, int, int], num_outputs: int, **own_options: Any
) -> nn.Module:
    """Build a model of a family.

    Args:
        name: a key of ``MODELS``.
        depth: number of layers, as the family counts them.
        width: units or channels of a layer, as the family counts them.
        in_shape: channels, height and width of an image, [C, H, W].
        num_outputs: classes; a family that reconstructs its input does not use it.
        **own_options: the family's own, see ``options``.

    Raises:
        ValueError: an unknown name or option, or sizes the family cannot have.
    """
    cls = model_class(name)
    known = options(name)
    for key in own_options:
        if key not in known:
            raise ValueError(f"{key}: {name} has no such option; its options: {', '.join(known) or 'none'}")
    return cls(depth=depth, width=width, in_shape=in_shape, num_outputs=num_outputs, **own_options)


def require_sizes(in_shape: tuple[int, int, int], **sizes: int) -> None:
    """Refuse sizes that are not integers of at least 1; every family calls it first.

    Raises:
        ValueError: names the first parameter that is wrong, its value and what is allowed.
    """
    if len(in_shape) != 3 or not all(_is_size(side) for side in in_shape):
        raise ValueError(f"in_shape = {in_shape!r}: must be three integers of at least 1, (channels, height, width)")
    for name, value in sizes.items():
        if not _is_size(value):
            raise ValueError(f"{name} = {value!r}: must be an integer of at least 1")


def _is_size(value: object) -> bool:
    """Whether a value is an int of at least 1; a bool is an int to Python and a slip in a study file."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
