"""The layers of a model that have an entropy change: each one's weight, its measured part, and its measure."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from . import options
from .conv import corner_blocks, corner_taps, taps, taps_and_gradient
from .entropy import leading_block, minor, volume, volume_and_gradient

Kind = Literal["dense", "conv"]
View = Callable[[Tensor], Tensor]
MIN_EVERY = 32  # steps; cached gradients were as good as exact ones up to here
MAX_EVERY = 128  # steps; at 64 cached gradients lost 1-2 %
REFRESH_SHARE = 0.04  # cost of refreshing a layer's guidance gradient that is aimed at, as a share of its training step
FACTORISATION_PENALTY = 6.0  # time per flop of Cholesky and its inverse, relative to a matrix product
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
ADAPTER = "an adapter, or the weight that it is added to: no entropy change of the layer, which is that of the sum"
PART = "freeze it, or guide a part of the model without it: EntropyGuidance(model.part)"
SHARDED = (
    "is sharded (FSDP, tensor parallelism, ZeRO 3): only whole weights are measured. Train with "
    f"DistributedDataParallel, or {PART}"
)


@dataclass(frozen=True)
class Measure:
    """An entropy change h, in nats, of a part of a weight: of matrices [..., out, in], or of single taps [a, b]."""

    entropy: Callable[[Tensor, float], Tensor]  # (part, ridge) -> h, unreduced and differentiable
    entropy_and_gradient: Callable[[Tensor, float], tuple[Tensor, Tensor]]  # -> h, its derivative, without autograd
    of_matrices: bool = True


MEASURES = {
    "volume": Measure(volume, volume_and_gradient),
    "minor": Measure(minor, volume_and_gradient),  # for the gradient the part is the leading block already
    "taps": Measure(lambda part, _: taps(part), lambda part, _: taps_and_gradient(part), of_matrices=False),
}


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight whose entropy is measured."""

    name: str  # that of its module, followed by that of the weight if the module has several
    kind: Kind  # the term that it belongs to: lambda1 weights `dense`, lambda2 `conv`
    measure: str  # a key of `MEASURES`
    parameters: tuple[nn.Parameter, ...]  # the weight, or those it is computed from (pruning, parametrisations)
    view: View  # weight, or its gradient -> the measured part: matrices [..., out, in], or taps [a, b]
    materialize: Callable[[], Tensor] | None = None  # () -> the weight; None if it is the parameter itself
    gradient_transform: Callable[[Tensor], Tensor] | None = None  # changes the gradient of the part, for placebos

    @property
    def targets(self) -> list[tuple[nn.Parameter, View]]:
        """The parameters, each with a view of the part of its gradient that guidance adds to."""
        return [(p, self.view if self.materialize is None else _whole) for p in self.parameters]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the measured part."""
        return tuple(self.view(self.weight().detach()).shape)

    @property
    def dimensions(self) -> int:
        """The number k of singular values that one h sums over; 1 of a tap."""
        return min(self.shape[-2:]) if self._measure.of_matrices else 1

    @property
    def has_input_columns(self) -> bool:
        """True if the gradient is one matrix with a column for each input."""
        return self.materialize is None and self._measure.of_matrices and len(self.shape) == 2

    def entropy(self, ridge: float, columns: Tensor | None = None) -> Tensor:
        """Returns h of each matrix or tap, in nats, unreduced; of a single matrix [out, in] by some columns only."""
        part = self.view(self.weight())
        return self._measure.entropy(part if columns is None else part.index_select(1, columns), ridge)

    def gradient(self, ridge: float, slope: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns h, unreduced, and the gradient of a loss with derivative slope(h), for each of `targets`."""
        with torch.enable_grad():
            weight = self.weight()
        h, gradient = self._measure.entropy_and_gradient(self.view(weight.detach()), ridge)
        gradient *= slope(h)[(..., *(None,) * (gradient.dim() - h.dim()))]
        if self.gradient_transform is not None:
            gradient = self.gradient_transform(gradient)
        if self.materialize is None:
            return h, [gradient]
        whole = torch.zeros_like(weight)
        self.view(whole).copy_(gradient)
        parts = torch.autograd.grad(weight, self.parameters, whole, allow_unused=True)
        return h, [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.parameters, strict=True)]

    def placebo(self, seed: int) -> "Layer":
        """Returns a layer of the same size whose gradient has nothing to do with this layer's entropy.

        Of a kernel, the tap in the middle is guided in place of the corner. A kernel of at most two taps along each
        axis has corners alone, and the entropy change is exact at every corner: it is treated as a matrix is. Of a
        matrix, the gradient is moved into another orthogonal frame, drawn from ``seed``: its rows and columns are
        shuffled and change signs, so that its norm, its singular values and the sizes of its elements stay. A placebo
        makes weights grow as guidance does, and entropy rise with them, if less (`tests/benchmarks/placebo.py`). An
        effect that a placebo has as well is not due to the direction of guidance.
        """
        kernel = self.weight().shape[2:]
        if any(size > 2 for size in kernel):
            middle = (slice(None), slice(None), *(slice(size // 2, None) for size in kernel))
            return replace(self, view=lambda weight: self.view(weight[middle]))

        def shuffle(gradient: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            rows, columns = (torch.randperm(size, generator=generator) for size in gradient.shape[-2:])
            signs = (torch.randint(2, (size,), generator=generator) * 2 - 1 for size in gradient.shape[-2:])
            return gradient[..., rows[:, None], columns] * torch.outer(*signs).to(gradient)

        return replace(self, gradient_transform=shuffle)

    def refresh_interval(self, batch_size: int) -> int:
        """Returns the steps between two computations of the gradient that keep their cost to a few percent.

        They are a power of 2, from shape and batch size alone: an interval from timings would differ between runs. The
        Gram matrix and the product with its inverse take 4 k^2 l flops, Cholesky and inverse k^3 at a lower speed, a
        training step 6 B k l; k and l are the smaller and the larger size of the matrix, B is the batch size. Taps cost
        next to nothing.
        """
        if not self._measure.of_matrices:
            return MIN_EVERY
        short, long = sorted(self.shape[-2:])
        cost = (4 * short**2 * long + FACTORISATION_PENALTY * short**3) / (6 * batch_size * short * long)
        return min(MAX_EVERY, max(MIN_EVERY, int(2 ** round(math.log2(cost / REFRESH_SHARE)))))

    @property
    def _measure(self) -> Measure:
        return MEASURES[self.measure]

    def weight(self) -> Tensor:
        """Returns the weight, computed from `parameters` where it is not one of them."""
        return self.parameters[0] if self.materialize is None else self.materialize()


def guidable_layers(model: nn.Module, measure: str = "volume", conv_measure: str = "taps") -> Iterator[Layer]:
    """Yields the layers that have an entropy change and something to train, in the order of the modules.

    Dense are `nn.Linear`, Hugging Face's `Conv1D`, the projections within `nn.MultiheadAttention`, and 1x1
    convolutions, a linear map per pixel; in groups, each group is a matrix. Other `nn.Conv1d` to `nn.Conv3d` and
    transposed ones are convolutions; of depthwise ones `channels` are their taps. A weight that several modules share
    is yielded once. Pruned and parametrised weights are measured as they act, and their gradient goes to what is
    trained. `unguided.py` has the reasons of what is left out.

    Raises:
        ValueError: A layer is lazy and has no weight yet, or its weight is complex or sharded.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10))
        >>> [(layer.name, layer.kind, layer.shape) for layer in guidable_layers(model)]
        [('0', 'conv', (4, 1)), ('3', 'dense', (10, 16))]
    """
    seen = set(never_guided(model))
    for path, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(f"{path or 'the model'} {SHARDED}")
        for suffix, attribute, kind, measured, view in _weights(module, measure, conv_measure):
            parameters, materialize = _source(module, attribute)
            if any(is_lazy(parameter) for parameter in parameters):
                raise ValueError(f"{path} is lazy and has no weight yet: run a batch through the model first")
            if any(hasattr(p, "device_mesh") or (materialize is None and p.dim() < 2) for p in parameters):
                raise ValueError(f"{path}.{attribute} {SHARDED}".lstrip("."))
            if not parameters or any(not p.numel() or id(p) in seen for p in parameters):
                continue
            seen.update(map(id, parameters))
            name = ".".join(part for part in (path or type(module).__name__.lower(), suffix) if part)
            layer = Layer(name, kind, measured, parameters, view, materialize)
            if any(p.is_complex() for p in parameters) and (dtype := layer.weight().dtype).is_complex:
                raise ValueError(f"{name} has complex weights ({dtype}), and only real ones are measured: {PART}")
            yield layer


def never_guided(model: nn.Module) -> dict[int, str]:
    """Returns why some parameters are left out whatever layer has them, by their ids.

    They are those of embeddings, which a language model's last layer may share; those of adapters, as PEFT and loralib
    name them, and of the weight beside them: the layer's map is the sum of both; and sparse ones.
    """
    reasons: dict[int, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, EMBEDDINGS):
            reasons |= dict.fromkeys(map(id, module.parameters()), f"shared with the embedding {path}")
        elif "parametrizations" not in path.split("."):  # there it is measured as it acts
            reasons |= dict.fromkeys(map(id, _adapted(module)), ADAPTER)
    return reasons | {id(p): "a sparse tensor" for p in model.parameters() if p.layout != torch.strided}


def _adapted(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yields the parameters of the adapter that a module has, if any, and of the weight that it is added to."""
    of_peft = hasattr(module, "base_layer") and hasattr(module, "adapter_layer_names")
    own, children = dict(module.named_parameters(recurse=False)), dict(module.named_children())
    if of_peft or any(name.startswith("lora_") for name in (*own, *children)):
        yield from own.values()
        for name, child in children.items():
            if of_peft or name.startswith(("lora_", "base_layer")):
                yield from child.parameters()


def select(layers: Sequence[Layer], choice: options.Layers, others: Mapping[str, str] | None = None) -> list[Layer]:
    """Returns the layers that the option `layers` of `EntropyGuidance` means; `others` has reasons for its errors.

    Raises:
        ValueError: A name is neither a layer's nor that of a module with one. The message lists the names of layers.
    """
    if choice == "all":
        return list(layers)
    if isinstance(choice, Mapping):
        return list(layers[: choice["first"]] if "first" in choice else layers[-choice["last"] :])
    unknown = [name for name in choice if not any(is_within(layer.name, [name]) for layer in layers)]
    if unknown:
        names = ", ".join(layer.name for layer in layers) or "none"
        why = [f"{name} is {reason}" for name, reason in (others or {}).items() if is_within(name, unknown)]
        message = f"layers: no layer is called {', '.join(unknown)} or is part of it; layers: {names}"
        raise ValueError("; ".join([message, *why]))
    return [layer for layer in layers if is_within(layer.name, choice)]


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Returns True if a name is one of some modules, or is that of a part of one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def is_conv1d(module: nn.Module) -> bool:
    """Returns True for Hugging Face's `Conv1D`, a linear map x @ W with W [nx, nf]."""
    sizes = getattr(module, "nx", None), getattr(module, "nf", None)
    if not all(isinstance(size, int) for size in sizes):
        return False
    weight = module._parameters.get("weight")
    return weight is None or weight.shape == sizes  # None: pruned or parametrised


def _weights(module: nn.Module, measure: str, conv_measure: str) -> Iterator[tuple[str, str, Kind, str, View]]:
    """Yields the suffix of the name, attribute, kind, measure and view of each weight of a module."""
    block = leading_block if measure == "minor" else _whole
    if isinstance(module, nn.Linear):
        yield "", "weight", "dense", measure, block
    elif is_conv1d(module):
        yield "", "weight", "dense", measure, lambda weight: block(weight.mT)
    elif isinstance(module, nn.MultiheadAttention):
        yield "in_proj", "in_proj_weight", "dense", measure, lambda weight: block(weight.view(3, -1, weight.shape[1]))
        for part in ("q_proj", "k_proj", "v_proj"):
            yield part, f"{part}_weight", "dense", measure, block
    elif isinstance(module, _ConvNd):
        depthwise = module.groups == module.in_channels == module.out_channels
        pixelwise = set(module.kernel_size) == {1}
        if depthwise or not (pixelwise or conv_measure == "channels"):
            yield "", "weight", "conv", "taps", corner_taps
        else:
            kind: Kind = "dense" if pixelwise else "conv"
            blocks = partial(corner_blocks, groups=module.groups, transposed=module.transposed)
            yield "", "weight", kind, measure, lambda weight: block(blocks(weight).squeeze(0))


def _whole(weight: Tensor) -> Tensor:
    return weight


def _source(module: nn.Module, attribute: str) -> tuple[tuple[nn.Parameter, ...], Callable[[], Tensor] | None]:
    """Returns the parameters that train a weight, none if it is frozen, and the function that computes it, if any."""
    if parametrize.is_parametrized(module, attribute):
        parametrization: nn.Module = module.parametrizations[attribute]  # type: ignore[index, assignment]
        return tuple(p for p in parametrization.parameters() if p.requires_grad), lambda: _evaluated(parametrization)
    pruned, mask = f"{attribute}_orig", f"{attribute}_mask"
    is_pruned = mask in module._buffers
    weight = module._parameters.get(pruned if is_pruned else attribute)
    if weight is None or not weight.requires_grad:
        return (), None
    return (weight,), (lambda: weight * module._buffers[mask]) if is_pruned else None  # type: ignore[operator]


def _evaluated(parametrization: nn.Module) -> Tensor:
    """Returns a parametrised weight, without what `forward` does while training, such as a power iteration."""
    training = parametrization.training
    parametrization.eval()
    try:
        weight: Tensor = parametrization()
    finally:
        parametrization.train(training)
    return weight
