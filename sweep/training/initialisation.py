"""Initialises the weights of a model by the name of a scheme."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


def initialise(model: nn.Module, scheme: str, images: Tensor | None = None) -> None:
    """Initialises the weights of linear and convolutional layers.

    All schemes but ``default`` set the biases to zero and leave other layers alone. Their gain is that of tanh, 5/3, in
    a model with one; else that of ReLU, the square root of 2, which is near those of the other activations.

    Args:
        scheme: ``default`` (PyTorch's), ``he`` (He et al. 2015, normal), ``orthogonal`` (Saxe et al. 2014), or ``lsuv``
            (Mishkin and Matas 2016: orthogonal, then scaled so that each layer's output has variance 1).
        images: Training images [B, C, H, W] as the model takes them, for ``lsuv``.

    Raises:
        ValueError: ``lsuv`` without images.
    """
    if scheme == "default":
        return
    nonlinearity: Literal["tanh", "relu"] = "tanh" if any(isinstance(m, nn.Tanh) for m in model.modules()) else "relu"
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            if scheme == "he":
                nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)
            else:
                nn.init.orthogonal_(module.weight, gain=nn.init.calculate_gain(nonlinearity))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if scheme == "lsuv":
        if images is None:
            raise ValueError("lsuv needs images")
        _scale_to_unit_variance(model, images)


@torch.no_grad()
def _scale_to_unit_variance(model: nn.Module, x: Tensor) -> None:
    """Divides the weights of each linear and convolutional layer, in the order of use, by its output's deviation."""
    # Biases are 0 here, so that one division makes the variance 1. A layer that is used twice is scaled at both uses,
    # so that its last use has variance 1. Batch norm is the identity, as it is in an untrained network.

    def scale(module: nn.Linear, _inputs: object, output: Tensor) -> Tensor:
        spread = float(output.std())
        if not (math.isfinite(spread) and spread > 0):
            return output
        module.weight.div_(spread)
        return output / spread  # so that the following layers get the scaled output

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    training = model.training
    model.eval()(x)
    model.train(training)
    for hook in hooks:
        hook.remove()
