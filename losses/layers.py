"""The layers of a model that have an entropy change: which, how it is measured, and how often, for `guidance.py`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from . import options
from .conv import corner_blocks, corner_taps, taps, taps_and_gradient
from .entropy import leading_block, volume, volume_and_gradient

MIN_EVERY, MAX_EVERY = 32, 128  # cached gradients were as good as exact ones up to 32 steps, and lost 1-2 % at 64
REFRESH_SHARE = 0.04  # of a layer's training step, about, on average
FACTORISATION_PENALTY = 6.0  # how much slower per flop Cholesky and its inverse are than a matrix product

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight whose entropy is measured.

    Attributes:
        name: Its module's, with that of the weight where a module has several.
        kind: Which of the two terms it belongs to.
        measure: `volume` or `minor` of matrices, or `taps`.
        parameters: What is trained: the weight, or what it is computed from (pruning, parametrisations).
        view: The part of a weight, or of its gradient, that is measured: matrices [..., out, in], or taps [a, b].
        compute: Computes the weight from the parameters; None where it is the parameter itself.
        turn: What is done to the gradient of the part that is measured; None: nothing.
    """

    name: str
    kind: Literal["dense", "conv"]
    measure: Literal["volume", "minor", "taps"]
    parameters: tuple[nn.Parameter, ...]
    view: View
    compute: Callable[[], Tensor] | None = None
    turn: Callable[[Tensor], Tensor] | None = None

    @property
    def targets(self) -> list[tuple[nn.Parameter, View]]:
        """The parameters, and the part of each one's gradient that guidance adds to."""
        return [(p, self.view if self.compute is None else _whole) for p in self.parameters]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """That of the part that is measured."""
        return tuple(self.view(self._weight().detach()).shape)

    @property
    def dimensions(self) -> int:
        """The number k of singular values of one matrix; 1 of a tap."""
        return 1 if self.measure == "taps" else min(self.shape[-2:])

    def entropy(self, ridge: float, columns: Tensor | None = None) -> Tensor:
        """H of each matrix or tap, nats, unreduced; of a single matrix [out, in] also with some of its columns only."""
        part = self.view(self._weight())
        if columns is not None:
            part = part.index_select(1, columns)
        if self.measure == "taps":
            return taps(part)
        return volume(leading_block(part) if self.measure == "minor" else part, ridge)

    def gradient(self, ridge: float, slope: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """H, unreduced, and the gradient of a loss with derivative slope(h), for each of `targets`."""
        with torch.enable_grad():
            weight = self._weight()
        part = self.view(weight.detach())
        if self.measure == "taps":
            h, gradient = taps_and_gradient(part)
            gradient *= slope(h)
        else:
            h, gradient = volume_and_gradient(part, ridge)
            gradient *= slope(h)[..., None, None]
        if self.turn is not None:
            gradient = self.turn(gradient)
        if self.compute is None:
            return h, [gradient]
        whole = torch.zeros_like(weight)
        self.view(whole).copy_(gradient)
        parts = torch.autograd.grad(weight, self.parameters, whole, allow_unused=True)
        return h, [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.parameters, strict=True)]

    def placebo(self, seed: int) -> "Layer":
        """A twin of the same size, whose gradient has nothing to do with this layer's entropy.

        Of a kernel the tap in the middle is guided in place of the corner. A matrix's gradient is turned into another
        orthogonal frame, drawn by ``seed``: rows and columns are shuffled and change signs, so that its norm, its
        singular values and the sizes of its elements stay. It makes weights grow as guidance does, and entropy rise
        with them, if less (`tests/benchmarks/placebo.py`): what it does as well is not due to the direction.
        """
        kernel = self._weight().shape[2:]
        if any(size > 1 for size in kernel):
            middle = (slice(None), slice(None), *(slice(size // 2, None) for size in kernel))
            return replace(self, view=lambda weight: self.view(weight[middle]))

        def turn(gradient: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            rows, columns = (torch.randperm(size, generator=generator) for size in gradient.shape[-2:])
            signs = (torch.randint(2, (size,), generator=generator) * 2 - 1 for size in gradient.shape[-2:])
            return gradient[..., rows[:, None], columns] * torch.outer(*signs).to(gradient)

        return replace(self, turn=turn)

    @property
    def tells_live_columns(self) -> bool:
        """Whether the gradient of the weight has a column for each input."""
        return self.compute is None and self.measure != "taps" and len(self.shape) == 2

    def live_columns(self) -> Tensor:
        """Inputs [in] whose column of the task's gradient is not exactly 0.

        It is 0 where the input was 0 in the whole batch, or reached nothing: Adam moves it by guidance alone.
        """
        gradient = self.parameters[0].grad
        if gradient is None:
            raise ValueError(f"{self.name} has no gradient")
        return self.view(gradient).any(0)

    def refresh_interval(self, batch_size: int) -> int:
        """Steps between two computations of its guidance gradient that keep their cost to a few percent, a power of 2.

        Gram matrix and product with its inverse take 4 k^2 l flops, Cholesky and inverse k^3 at a lower speed, a
        training step 6 B k l; k and l are the smaller and the larger size of a dense layer's matrix. Taps cost nothing.
        From shape and batch size alone, never from timings, since runs must repeat.
        """
        if self.measure == "taps":
            return MIN_EVERY
        short, long = sorted(self.shape[-2:])
        cost = (4 * short**2 * long + FACTORISATION_PENALTY * short**3) / (6 * batch_size * short * long)
        return min(MAX_EVERY, max(MIN_EVERY, int(2 ** round(math.log2(cost / REFRESH_SHARE)))))

    def _weight(self) -> Tensor:
        return self.parameters[0] if self.compute is None else self.compute()


def guidable_layers(model: nn.Module, measure: str = "volume", conv_measure: str = "taps") -> Iterator[Layer]:
    """The layers that have an entropy change and something to train, each weight once, in the order of the modules.

    Dense are `nn.Linear`, the projections within `nn.MultiheadAttention`, and 1x1 convolutions, a linear map per pixel;
    in groups, each group is a matrix. Other `nn.Conv1d` to `nn.Conv3d` and transposed ones are convolutions; of
    depthwise ones `channels` are their taps. Pruned and parametrised weights are measured as they act, and their
    gradient goes to what is trained. Left out are frozen and empty weights, and recurrent layers: a matrix of theirs is
    not the entropy change of the recurrence.

    Raises:
        ValueError: A lazy layer that has no weight yet.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        for suffix, attribute, kind, measured, view in _weights(module, measure, conv_measure):
            parameters, compute = _source(module, attribute)
            if any(is_lazy(parameter) for parameter in parameters):
                raise ValueError(f"{path} is lazy and has no weight yet: run a batch through the model first")
            if not parameters or any(not p.numel() or id(p) in seen for p in parameters):
                continue
            seen.update(map(id, parameters))
            name = ".".join(part for part in (path or type(module).__name__.lower(), suffix) if part)
            yield Layer(name, kind, measured, parameters, view, compute)  # type: ignore[arg-type]


def select(layers: Sequence[Layer], choice: options.Layers) -> list[Layer]:
    """Those of `layers` that the option `layers` of `EntropyGuidance` means.

    Raises:
        ValueError: A name that neither is a layer's nor contains one; says the names there are.
    """
    if choice == "all":
        return list(layers)
    if isinstance(choice, Mapping):
        return list(layers[: choice["first"]] if "first" in choice else layers[-choice["last"] :])
    unknown = [name for name in choice if not any(_is_within(layer, name) for layer in layers)]
    if unknown:
        names = ", ".join(layer.name for layer in layers) or "none"
        raise ValueError(f"layers: no layer is called {', '.join(unknown)} or is part of it; layers: {names}")
    return [layer for layer in layers if any(_is_within(layer, name) for name in choice)]


def _is_within(layer: Layer, name: str) -> bool:
    return f"{layer.name}.".startswith(f"{name}.")


def _weights(module: nn.Module, measure: str, conv_measure: str) -> Iterator[tuple[str, str, str, str, View]]:
    """Suffix of the name, attribute, kind, measure and view of each weight of a module."""
    minor = measure == "minor"
    if isinstance(module, nn.Linear):
        yield "", "weight", "dense", measure, leading_block if minor else _whole
    elif isinstance(module, nn.MultiheadAttention):
        yield "in_proj", "in_proj_weight", "dense", measure, _blocks_of(_thirds, minor)
        for part in ("q_proj", "k_proj", "v_proj"):
            yield part, f"{part}_weight", "dense", measure, leading_block if minor else _whole
    elif isinstance(module, _ConvNd):
        depthwise = module.groups == module.in_channels == module.out_channels
        pixelwise = set(module.kernel_size) == {1}
        if depthwise or not (pixelwise or conv_measure == "channels"):
            yield "", "weight", "conv", "taps", corner_taps
        else:
            yield "", "weight", "dense" if pixelwise else "conv", measure, _blocks_of(_matrices(module), minor)


def _matrices(module: _ConvNd) -> View:
    groups, transposed = module.groups, module.transposed
    if groups > 1:
        return lambda weight: corner_blocks(weight, groups, transposed=transposed)
    return (lambda weight: corner_taps(weight).mT) if transposed else corner_taps


def _blocks_of(view: View, minor: bool) -> View:
    return (lambda weight: leading_block(view(weight))) if minor else view


def _whole(weight: Tensor) -> Tensor:
    return weight


def _thirds(weight: Tensor) -> Tensor:
    return weight.view(3, -1, weight.shape[1])


def _source(module: nn.Module, attribute: str) -> tuple[tuple[nn.Parameter, ...], Callable[[], Tensor] | None]:
    """What a weight is trained by, and how it is computed from that; nothing where it is not, or not in a known way."""
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
    """A parametrised weight, without what `forward` does while training, such as a power iteration."""
    training = parametrization.training
    parametrization.eval()
    try:
        weight: Tensor = parametrization()
    finally:
        parametrization.train(training)
    return weight
