"""Entropy guidance for any training loop: L = L_task + lambda1 * L_dense + lambda2 * L_conv (arXiv 2308.14938).

Call `add_gradients()` between `loss.backward()` and `optimizer.step()`: it adds the gradients of the two guidance terms
to `.grad`. They are computed now and then, cached, and added at every step; `entropy.py` has the formulas.
"""

import math
import warnings
from collections.abc import Collection, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from .conv import taps, taps_and_gradient
from .entropy import FORMS, volume, volume_and_gradient
from .layers import guidable_layers

MEASURES = ("volume", "minor")
SCALES = ("per_dimension", "determinant")
REDUCTIONS = ("mean", "sum")

SAMPLE_EVERY = 32  # steps between two readings of the gradient norms; every epoch's first step is read
NEGLIGIBLE = 1e-30  # a gradient norm that is as good as 0
INERT, DOMINANT = 1e-5, 1.0  # guidance's gradient norm over the task's


class GuidanceWarning(UserWarning):
    """Guidance that changes nothing, or that outweighs the task."""


class EntropyGuidance:
    """Adds entropy guidance to the gradients of a model, in anybody's training loop.

        guidance = EntropyGuidance(model, lambda1=1e-3, batch_size=128)
        for epoch in range(epochs):
            guidance.start_epoch()
            for inputs, targets in batches:
                optimizer.zero_grad()
                loss(model(inputs), targets).backward()  # with a GradScaler: scaler.unscale_(optimizer) next
                guidance.add_gradients()
                optimizer.step()
            print(guidance.metrics())

    Guided are `nn.Linear` and 1x1 `nn.Conv2d` by the dense term, other `nn.Conv2d` (and 1x1 ones in groups) by the
    convolutional term; not frozen or reparametrised weights. A weight shared by several layers counts once.
    With lambda1 = lambda2 = 0, a control, nothing is added and `metrics()` still tells the task's norm and entropies.

    Args:
        model: The network as it is trained; on its device already, or moved before the first step.
        lambda1: Weight of the dense term.
        lambda2: Weight of the convolutional term.
        epsilon: Keeps `reciprocal` finite: 1 / (exp(h) + epsilon). Below 1e-2 it hardly matters for the default.
        measure: Of dense layers: `volume`, or the paper's `minor` (see `entropy.py`).
        form: The loss term of an entropy change h: `reciprocal` or `log` (-h). Of convolutions, the mean over filters.
        scale: Of dense layers: `determinant` takes h as it is, `per_dimension` h / k, the log of the geometric-mean
            gain. Convolutions take log|c11| under both: the number of anchors depends on the image size, which a weight
            does not tell, and would only multiply h.
        reduction: `mean` or `sum` over the layers of each term.
        ridge: Of dense layers, relative to the root mean square row (see `volume`). With 0, cached gradients of square
            layers are noise.
        every: Steps between two computations of a layer's guidance gradient; `auto` takes them from the layer's shape
            and `batch_size` alone, so that runs repeat. Staggered over the layers; all are fresh at each epoch's start.
        max_ratio: Caps the norm of the guidance gradient, at every step, at this multiple of the task's gradient norm,
            both over the guided weights; None: no cap.
        until: Fraction of the run after which guidance stops; None: never.
        batch_size: Of the training loop; used by `every: auto` only.

    Raises:
        ValueError: An option out of range, or a lambda > 0 on a model without any layer it could guide.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lambda1: float = 1e-3,
        lambda2: float = 0.0,
        epsilon: float = 1e-3,
        measure: str = "volume",
        form: str = "reciprocal",
        scale: str = "per_dimension",
        reduction: str = "mean",
        ridge: float = 0.1,
        every: int | Literal["auto"] = "auto",
        max_ratio: float | None = 1.0,
        until: float | None = None,
        batch_size: int = 128,
    ) -> None:
        _check_choice("measure", measure, MEASURES)
        _check_choice("form", form, ("log", "reciprocal"))
        _check_choice("scale", scale, SCALES)
        _check_choice("reduction", reduction, REDUCTIONS)
        _check("lambda1", lambda1, 0 <= lambda1 < math.inf, "a finite number >= 0")
        _check("lambda2", lambda2, 0 <= lambda2 < math.inf, "a finite number >= 0")
        _check("epsilon", epsilon, 0 < epsilon < math.inf, "a finite number > 0")
        _check("ridge", ridge, 0 <= ridge < math.inf, "a finite number >= 0")
        is_count = isinstance(every, int) and not isinstance(every, bool) and every >= 1
        _check("every", every, every == "auto" or is_count, "'auto' or an integer >= 1")
        _check("max_ratio", max_ratio, max_ratio is None or max_ratio > 0, "None or a number > 0")
        _check("until", until, until is None or 0 < until <= 1, "None or a fraction of the run, 0 < until <= 1")
        _check("batch_size", batch_size, batch_size >= 1, "an integer >= 1")
        self._form, self._epsilon, self._ridge = FORMS[form], epsilon, ridge
        self._per_dimension, self._reduction = scale == "per_dimension", reduction
        self._max_ratio, self._until = max_ratio, until

        self._layers = list(guidable_layers(model, measure))
        self._lambdas = {"dense": lambda1, "conv": lambda2}
        self._guided = [layer for layer in self._layers if self._lambdas[layer.kind] > 0]
        if (lambda1 > 0 or lambda2 > 0) and not self._guided:
            found = ", ".join(f"{layer.kind} {layer.name}" for layer in self._layers) or "none"
            raise ValueError(
                f"lambda1 = {lambda1}, lambda2 = {lambda2}, but the model has no layer to guide (found: {found}). "
                "lambda1 guides nn.Linear and 1x1 nn.Conv2d, lambda2 other nn.Conv2d; the weights must be trainable."
            )
        self._factors = [self._lambdas[layer.kind] / self._divisor(layer.kind) for layer in self._guided]
        intervals = [layer.refresh_interval(batch_size) if every == "auto" else int(every) for layer in self._guided]
        self._turns: list[list[int]] = [[] for _ in range(max(intervals, default=1))]  # which layers are due, by step
        for index, interval in enumerate(intervals):
            for step in range(index * interval // len(intervals), len(self._turns), interval):
                self._turns[step].append(index)
        self._cached: list[Tensor] = [torch.empty(0)] * len(self._guided)  # lambda-weighted, shaped as view(weight)
        self._cached_norms: list[Tensor] = list(self._cached)
        self._warned: set[str] = set()
        self._step, self._stale = 0, True
        self._task_samples: list[Tensor] = []
        self._guidance_samples: list[Tensor] = []  # [2] each: norm, ratio
        self._skipped = torch.zeros((), dtype=torch.int64)

    @classmethod
    def paper(cls, model: nn.Module, **overrides: Any) -> Self:
        """The formulas of arXiv 2308.14938 as they stand, computed at every step, without a ridge or a cap.

        On layers of 100 units and more it is inert: |det W'| is far below epsilon, so the term is the constant
        1 / epsilon. `metrics()` warns of it.
        """
        preset = {"measure": "minor", "form": "reciprocal", "scale": "determinant", "reduction": "sum"}
        return cls(model, **{**preset, "ridge": 0.0, "every": 1, "max_ratio": None, **overrides})

    def start_epoch(self) -> None:
        """Makes the next step compute every layer's guidance gradient, so that a checkpoint needs none of them."""
        self._step, self._stale = 0, True

    def add_gradients(self, progress: float = 0.0) -> None:
        """Adds the guidance gradients to `.grad`; to be called once per optimizer step, after `backward()`.

        Args:
            progress: The fraction of the run that is done, in [0, 1); `until` is compared with it.
        """
        step, self._step = self._step, self._step + 1
        guiding = bool(self._guided) and (self._until is None or progress < self._until)
        sampling = step % SAMPLE_EVERY == 0
        if not guiding and not sampling:
            return
        with torch.no_grad():
            if sampling and self._layers:
                self._task_samples.append(_norm([_gradient(layer.weight) for layer in self._layers]))
            if guiding:
                self._guide(step, sampling)

    def metrics(self) -> dict[str, float]:
        """What happened since the last call; to be called once, at the end of an epoch.

        `guidance/dense`, `guidance/conv`: the terms, unweighted, and `entropy/<layer>`: h per dimension (nats) by the
        configured measure, ridge included (mean log|c11| over the filters of a convolution), both of the weights as
        they are now. `grad_norm/task`, over all layers that could be guided, and `grad_norm/guidance`, lambda-weighted
        and before the cap: means over the steps read (every 32nd, the first included), as is `guidance/ratio`, whose
        task norm is that of the guided weights. `guidance/skipped`: computations that were left out because the
        weights had no finite entropy gradient.

        Warns:
            GuidanceWarning: Once per instance each, if the ratio shows guidance to be inert or dominant.
        """
        with torch.no_grad():
            values = self._terms_and_entropies()
        if self._task_samples:
            values["grad_norm/task"] = float(torch.stack(self._task_samples).mean())
        if self._guidance_samples:
            norm, ratio = torch.stack(self._guidance_samples).mean(0).tolist()
            values |= {"grad_norm/guidance": norm, "guidance/ratio": ratio, "guidance/skipped": float(self._skipped)}
        self._task_samples, self._guidance_samples = [], []
        self._skipped = torch.zeros((), dtype=torch.int64)
        self._warn_of(values.get("guidance/ratio", math.nan))
        return values

    def _guide(self, step: int, sampling: bool) -> None:
        due = range(len(self._guided)) if self._stale else self._turns[step % len(self._turns)]
        self._stale = False
        for index in due:
            self._refresh(index)
        if due:
            self._norm = _norm_of_norms(self._cached_norms)
            self._cap = (self._max_ratio or 0.0) / self._norm.clamp_min(NEGLIGIBLE)
        gradients = [_gradient(layer.weight) for layer in self._guided]
        targets = [layer.view(gradient) for layer, gradient in zip(self._guided, gradients, strict=True)]
        if sampling or self._max_ratio is not None:
            task = _norm(gradients)
        if sampling:
            self._guidance_samples.append(torch.stack([self._norm, self._norm / task.clamp_min(NEGLIGIBLE)]))
        if self._max_ratio is None:
            torch._foreach_add_(targets, self._cached)
        else:
            # A tensor, not a number: reading it here would make a GPU wait at every step.
            scale = (self._cap * task).clamp_max(1.0)
            torch._foreach_addcmul_(targets, self._cached, [scale] * len(targets))

    def _refresh(self, index: int) -> None:
        """Computes the lambda-weighted gradient of one layer's part of the loss and its norm."""
        layer, factor = self._guided[index], self._factors[index]
        if layer.kind == "dense":
            h, gradient = volume_and_gradient(layer.view(layer.weight), self._ridge)
            dimensions = layer.dimensions if self._per_dimension else 1
            gradient *= self._form.slope(h / dimensions, self._epsilon) * (factor / dimensions)
        else:
            h, gradient = taps_and_gradient(layer.weight)
            gradient *= self._form.slope(h, self._epsilon) * (factor / h.numel())
        norm = torch.linalg.vector_norm(gradient)
        skipped = ~(norm + h.sum()).isfinite()
        self._skipped = self._skipped + skipped
        self._cached[index] = gradient.masked_fill_(skipped, 0).to(layer.weight.dtype)
        self._cached_norms[index] = norm.masked_fill_(skipped, 0)

    def _terms_and_entropies(self) -> dict[str, float]:
        """Both terms and each layer's entropy, read from the device at once."""
        entropies: list[Tensor] = []
        terms: dict[str, list[Tensor]] = {}
        for layer in self._layers:
            if layer.kind == "dense":
                h = volume(layer.view(layer.weight), self._ridge)
                entropy = h / layer.dimensions
                term = self._form.value(entropy if self._per_dimension else h, self._epsilon)
            else:
                h = taps(layer.weight)
                entropy, term = h.mean(), self._form.value(h, self._epsilon).mean()
            entropies.append(entropy)
            terms.setdefault(layer.kind, []).append(term)
        if not entropies:
            return {}
        names = [f"guidance/{kind}" for kind in terms] + [f"entropy/{layer.name}" for layer in self._layers]
        reduced = [torch.stack(of_kind).sum() / self._divisor(kind) for kind, of_kind in terms.items()]
        return dict(zip(names, torch.stack([*reduced, *entropies]).tolist(), strict=True))

    def _divisor(self, kind: str) -> int:
        """The number of layers of a term, for a mean over them; 1 for a sum."""
        return sum(layer.kind == kind for layer in self._layers) if self._reduction == "mean" else 1

    def _warn_of(self, ratio: float) -> None:
        if ratio < INERT and "inert" not in self._warned:
            self._warned.add("inert")
            message = (
                f"guidance is inert: over an epoch its gradient was {ratio:.1e} of the task's (below {INERT:g}). "
                "Use scale 'per_dimension' with measure 'volume' (the determinant of a layer of 100 units and more is "
                "far below epsilon, whatever the weights), or a larger lambda1 or lambda2."
            )
            warnings.warn(message, GuidanceWarning, stacklevel=3)
        elif ratio > DOMINANT and "dominant" not in self._warned:
            self._warned.add("dominant")
            capped = "not capped (max_ratio None)" if self._max_ratio is None else f"capped at {self._max_ratio:g}"
            message = (
                f"guidance is dominant: over an epoch its gradient was {ratio:.3g} times the task's, {capped}. "
                "Lower lambda1 or lambda2, raise epsilon, or set max_ratio (0.1 makes any lambda harmless)."
            )
            warnings.warn(message, GuidanceWarning, stacklevel=3)


def _gradient(weight: nn.Parameter) -> Tensor:
    """The weight's `.grad`, made of zeros where the task gave none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _norm(tensors: list[Tensor]) -> Tensor:
    return _norm_of_norms(torch._foreach_norm(tensors))


def _norm_of_norms(norms: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(tuple(norms)))
    return norm


def _check(name: str, value: object, valid: bool, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{name} = {value!r}; allowed: {allowed}")


def _check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    _check(name, value, value in allowed, ", ".join(allowed))
