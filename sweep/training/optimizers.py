"""Builds optimizers, and keeps PyTorch's compiler from being imported for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..config.sections import TrainingConfig


def build_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Returns the optimizer that ``training`` names."""
    _spare_compiler()
    parameters, lr, decay = model.parameters(), training.lr, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=training.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=decay, fused=True)


def _spare_compiler() -> None:
    """Lets optimizers be made without the compiler: marking them as not to be compiled takes 1.7 s of imports."""
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)


def _plain_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The optimizer's step without its decorators, which import the compiler."""
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))
