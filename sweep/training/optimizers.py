"""Builds optimizers whose step does not import PyTorch's compiler.

`torch.optim` decorates its methods for `torch.compile`; the first call of one imports the compiler, 1.7 s in each
worker that nothing here needs. The optimizers below take the same steps undecorated. (Read in torch 2.14.)
"""

import inspect
from typing import Any

import torch
from torch import nn

from ..config.sections import TrainingConfig


def build_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of a model's parameters that ``training`` names: ``adam``, ``adamw`` or ``sgd``.

    Its ``step()`` is PyTorch's, undecorated: hooks that were registered for steps are not called.
    """
    _skip_compiler_marks()
    options: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay, "fused": True}
    if training.optimizer == "sgd":
        options["momentum"] = training.momentum
    return OPTIMIZERS[training.optimizer](model.parameters(), **options)


def _with_plain_step(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    step = torch.no_grad()(inspect.unwrap(kind.step))
    step.hooked = True  # or the first instance would decorate it again
    return type(kind.__name__, (kind,), {"step": step})


OPTIMIZERS = {
    "adam": _with_plain_step(torch.optim.Adam),
    "adamw": _with_plain_step(torch.optim.AdamW),
    "sgd": _with_plain_step(torch.optim.SGD),
}


def _skip_compiler_marks() -> None:
    """Marks other methods of optimizers as not to be compiled, so that PyTorch imports no compiler to mark them."""
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)
