"""Finds the layers that feed a normalisation, which divides their scale out: guidance would grow it without bound."""

import logging
import re
from itertools import pairwise

import torch
from torch import fx, nn

from .layers import is_conv1d

logger = logging.getLogger(__name__)

NORM = re.compile(r"(Sync)?(Batch|Group|Instance|Layer|RMS|LocalResponse)Norm(\d[dD])?|.+(Layer|RMS)Norm(\d[dD])?")
# Classes, functions and methods that pass a scale on: f(a x) = a f(x) for a > 0, and those that only move values.
HOMOGENEOUS = re.compile(
    r"((leaky|p|r)?relu_?|(feature)?(alpha)?dropout|(adaptive)?_?(avg|max|average)_?pool|identity|flatten|view|reshape"
    r"|permute|transpose|contiguous|(un)?squeeze|mean)(_?\d[dD])?",
    re.IGNORECASE,
)
NORM_FUNCTION = re.compile(r"(batch|group|instance|layer|rms|local_response)_norm|normalize")
SHAPE = ("size", "dim", "getattr")  # read a tensor's shape alone
WRAPPERS = {"torch.nn.parallel": "module", "torch._dynamo": "_orig_mod"}


def feeding_a_norm(model: nn.Module) -> set[str]:
    """Returns the names of modules whose every use ends in a normalisation, with only ReLU, pooling and such between.

    torch.fx finds them. Where it fails (`forward` depends on values) or does not enter (PyTorch's own blocks, such as
    `nn.TransformerEncoderLayer`), a layer counts as feeding a norm if the norm comes next among the modules of its
    parent; a residual sum in between is seen by torch.fx alone.
    """
    if not any(is_norm(module) for module in model.modules()):
        return set()
    by_order = _by_order(model)
    prefix = ""
    while wrapped := next((a for m, a in WRAPPERS.items() if type(model).__module__.startswith(m)), None):
        prefix, model = f"{prefix}{wrapped}.", getattr(model, wrapped)
    try:
        with torch.random.fork_rng(devices=[]):
            graph = _Tracer().trace(model)
    except Exception as error:  # noqa: BLE001 (whatever a model raises that is run without numbers)
        logger.debug("torch.fx cannot trace %s (%r): using the order of modules", type(model).__name__, error)
        return by_order
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(prefix + str(node.target), []).append(node)
    traced = {name for name, nodes in calls.items() if all(_ends_in_a_norm(node, model) for node in nodes)}
    return traced | (by_order - calls.keys())


class _Tracer(fx.Tracer):
    """Does not enter modules of norms, also those of other packages, nor Hugging Face's linear maps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_norm(m) or is_conv1d(m) or super().is_leaf_module(m, module_qualified_name)


def is_norm(module: nn.Module) -> bool:
    """Returns True for normalisations, also those of other packages: their classes are recognised by name."""
    return bool(NORM.fullmatch(type(module).__name__))


def _ends_in_a_norm(node: fx.Node, model: nn.Module) -> bool:
    users = [user for user in node.users if _name(user, model) not in SHAPE]
    return bool(users) and all(
        bool(NORM_FUNCTION.fullmatch(name := _name(user, model)))
        or (bool(HOMOGENEOUS.fullmatch(name)) and _ends_in_a_norm(user, model))
        for user in users
    )


def _name(node: fx.Node, model: nn.Module) -> str:
    """Returns the name of the class, function or method that a node calls."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return "normalize" if is_norm(module) else type(module).__name__
    return str(getattr(node.target, "__name__", node.target))


def _by_order(model: nn.Module) -> set[str]:
    """Returns the names of modules that a norm follows among the modules of their parent."""
    found = set()
    for path, parent in model.named_modules():
        children = [
            (name, child)
            for name, child in parent.named_children()
            if is_norm(child) or not HOMOGENEOUS.fullmatch(type(child).__name__)
        ]
        for (name, _), (_, following) in pairwise(children):
            if is_norm(following):
                found.add(f"{path}.{name}" if path else name)
    return found
