"""Names the weights that are trained and not guided, each with the reason."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from .layers import EMBEDDINGS, Layer, never_guided
from .norm_detection import is_norm

REASONS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (EMBEDDINGS, "an embedding: a lookup has no entropy change"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent: none of its matrices is the entropy change of the recurrence"),
    (nn.Bilinear, "bilinear: no linear map of one input"),
)
SHARED = "computed from a parameter of another layer, which is guided"
HOOK = "computed by a hook of nn.utils; the successors in nn.utils.parametrizations are guided"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that are trained, a shared one under each of its names."""
    return {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}


def unguidable(model: nn.Module, parameters: Mapping[str, nn.Parameter], layers: Iterable[Layer]) -> dict[str, str]:
    """Returns why those parameters of two dimensions and more that are part of no layer cannot be guided, by name."""
    apart, measured = never_guided(model), {id(p) for layer in layers for p in layer.parameters}
    others = {name: p for name, p in parameters.items() if id(p) not in measured and not is_lazy(p) and p.dim() >= 2}
    return {name: _reason(model, name, p, apart) for name, p in others.items()}


def by_reason(reasons: Mapping[str, str]) -> str:
    """Returns `a, b (a reason); c (another)`."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(those)} ({reason})" for reason, those in names.items())


def _reason(model: nn.Module, name: str, parameter: nn.Parameter, apart: Mapping[int, str]) -> str:
    path, *computed = re.split(r"(?:^|\.)parametrizations\.", name, maxsplit=1)
    attribute = "" if computed else name.rpartition(".")[2]
    owner = model.get_submodule(path if computed else name.rpartition(".")[0])
    for types, reason in REASONS:
        if isinstance(owner, types):
            return reason
    if id(parameter) in apart:
        return apart[id(parameter)]
    if is_norm(owner):
        return "the scale or shift of a normalisation"
    if not parameter.numel():
        return "empty"
    if computed and isinstance(owner, nn.Linear | nn.MultiheadAttention | _ConvNd):
        return SHARED
    base = re.sub(r"_(g|v|orig)$", "", attribute)
    if base != attribute and f"{base}_mask" not in owner._buffers and isinstance(getattr(owner, base, None), Tensor):
        return HOOK
    return f"a raw parameter of {type(owner).__name__}, whose map is not known"
