"""Initialises the weights of a model by name of the scheme."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


def initialise(model: nn.Module, scheme: str, images: Tensor | None = None) -> None:
    """Initialises linear and convolutional weights: ``default`` (PyTorch's), ``he`` (normal), ``orthogonal``, ``lsuv``.

    All but the first set the biases to zero and leave other layers alone. Their gain is that of tanh in a model with
    one, 5/3, and else that of ReLU, the square root of 2, which the other activations come near.

    Args:
        images: training images as the model takes them; ``lsuv`` scales by what each layer makes of them.

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
    """Scales the weights of each linear and convolutional layer, in the order of their use, by its output's spread.

    Biases are 0 here, so that one division makes the variance 1. A layer whose output does not vary stays as it is; one
    that is used twice is scaled at both uses, so that the last counts. Batch norm passes all on, as it does untrained.

    Source: Mishkin and Matas, All you need is a good init, ICLR 2016.
    """

    def scale(module: nn.Linear, _inputs: object, output: Tensor) -> Tensor:
        spread = float(output.std())
        if not (math.isfinite(spread) and spread > 0):
            return output
        module.weight.div_(spread)
        return output / spread  # what the layers behind it will see

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    training = model.training
    model.eval()(x)
    model.train(training)
    for hook in hooks:
        hook.remove()
