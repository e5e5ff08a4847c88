"""Entropy guidance for any training loop: L = L_task + lambda1 * L_dense + lambda2 * L_conv (arXiv 2308.14938).

Call `add_gradients()` between `loss.backward()` and `optimizer.step()`: it adds the gradients of the two guidance terms
to `.grad`. They are computed now and then, cached, and added at every step; `entropy.py` has the formulas.
"""

import math
import warnings
from itertools import chain, compress
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from . import options
from .conv import TAP_FLOOR
from .entropy import FORMS, Form
from .layers import Layer, guidable_layers, select
from .normalized import feeding_a_norm
from .options import DOMINANT, INERT

SAMPLE_EVERY = 32  # steps between two readings of the gradients; every epoch's first step is read
NEGLIGIBLE = 1e-30  # a gradient norm that is as good as 0
KINDS = {  # what each lambda guides
    "dense": "lambda1 guides nn.Linear, 1x1 convolutions and nn.MultiheadAttention",
    "conv": "lambda2 guides the other nn.Conv1d, Conv2d, Conv3d and transposed ones",
}


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

    Which layers there are, `layers.py` says. A weight shared by several counts once. With lambda1 = lambda2 = 0, a
    control, nothing is added and `metrics()` still tells the task's norm and the entropies.
    Weight decay wd is the counterweight: with SGD, form `log` and no task the k singular values of a layer come to rest
    at sqrt(lambda / (k wd)), lambda being the layer's share under `mean`.

    Args:
        model: The network as it is trained; on its device already, or moved before the first step.
        lambda1: Weight of the dense term.
        lambda2: Weight of the convolutional term.
        epsilon: Keeps `reciprocal` finite: 1 / (exp(h) + epsilon). Below 1e-2 it hardly matters for the default.
        measure: Of matrices: `volume`, or the paper's `minor` (see `entropy.py`).
        form: The dense loss term of an entropy change h: `reciprocal`, `log` (-h) or `target` ((h - target)^2).
        conv_measure: Of convolutions (see `conv.py`): the paper's `taps`, one log|c11| per filter, or `channels`, the
            entropy change, K11 of each group being measured as a dense layer's matrix is.
        conv_form: As `form`, of convolutions: the mean over a layer's filters, or over its groups. In gradients a tap
            below 1e-2 counts as 1e-2, which bounds them; `target` still sees its h, or it could set none below -4.6.
        target: Of `target`, nats per dimension; 0 keeps volumes as they are.
        scale: `determinant` takes h of a matrix as it is, `per_dimension` h / k, the log of the geometric-mean gain.
            Neither multiplies by a convolution's number of anchors, which depends on the image.
        reduction: `mean` or `sum` over the layers of each term.
        layers: Which are guided: `all`, {"first": n} or {"last": n} of them, or names of layers or of modules that
            contain them. `all` leaves out those that feed a normalisation layer (see `normalized.py`), since nothing
            would hold their growing weights back; not so with form `target`. It warns of that once.
        ridge: Of matrices, relative to the root mean square row (see `volume`). With 0, cached gradients of square
            ones are noise.
        every: Steps between two computations of a layer's guidance gradient; `auto` takes them from the layer's shape
            and `batch_size` alone, so that runs repeat. Staggered over the layers; all are fresh at each epoch's start.
        max_ratio: Caps the norm of the guidance gradient, at every step, at this multiple of the task's gradient norm,
            both over the guided weights; None: no cap.
        until: Fraction of the run after which guidance stops; None: never.
        placebo: Guide a meaningless twin of the same size instead (see `Layer.placebo`), drawn by torch's present seed:
            what merely adding such gradients does. `metrics()` still tells the network's own entropies.
        batch_size: Of the training loop; used by `every: auto` only.

    Attributes:
        layers: The layers whose entropy is measured.
        selected: Of these, the ones that `layers` means.
        left_out: Of these, the ones that `all` left out.

    Raises:
        ValueError: An option out of range, a name that no layer has, or a lambda > 0 on a model without any layer it
            could guide.

    Warns:
        GuidanceWarning: Layers were left out.
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
        conv_measure: str = "taps",
        conv_form: str = "log",
        target: float = 0.0,
        scale: str = "per_dimension",
        reduction: str = "mean",
        layers: options.Layers = "all",
        ridge: float = 0.1,
        every: int | Literal["auto"] = "auto",
        max_ratio: float | None = 1.0,
        until: float | None = None,
        placebo: bool = False,
        batch_size: int = 128,
    ) -> None:
        options.check(**{name: value for name, value in locals().items() if name not in ("self", "model")})
        self._forms, self._epsilon, self._target = {"dense": form, "conv": conv_form}, epsilon, target
        self._per_dimension, self._reduction, self._ridge = scale == "per_dimension", reduction, ridge
        self._max_ratio, self._until = max_ratio, until
        self._lambdas = {"dense": lambda1, "conv": lambda2}

        self.layers = list(guidable_layers(model, measure, conv_measure))
        self.selected = select(self.layers, layers)
        self.left_out: list[Layer] = []
        if layers == "all":
            normalized = feeding_a_norm(model)
            self.left_out = [x for x in self.layers if x.name in normalized and self._forms[x.kind] != "target"]
            self.selected = [x for x in self.layers if x not in self.left_out]
        self._guided = [layer for layer in self.selected if self._lambdas[layer.kind] > 0]
        self._tell_what_is_guided()
        if placebo:
            seed = torch.initial_seed() % 2**62
            self._guided = [layer.placebo(seed + index) for index, layer in enumerate(self._guided)]

        self._factors = [self._lambdas[layer.kind] / self._divisor(layer.kind) for layer in self._guided]
        intervals = [layer.refresh_interval(batch_size) if every == "auto" else int(every) for layer in self._guided]
        self._turns: list[list[int]] = [[] for _ in range(max(intervals, default=1))]  # which layers are due, by step
        for index, interval in enumerate(intervals):
            for step in range(index * interval // len(intervals), len(self._turns), interval):
                self._turns[step].append(index)
        self._targets = [target for layer in self._guided for target in layer.targets]
        self._cached: list[list[Tensor]] = [[] for _ in self._guided]  # lambda-weighted, one for each target
        self._flat: list[Tensor] = []
        self._norm = torch.zeros(())  # of all that is cached
        self._witness = 0  # the target with the largest task gradient, of late
        self._warned: set[str] = set()
        self._step, self._stale = 0, True
        self._task_samples: list[Tensor] = []
        self._guidance_samples: list[Tensor] = []  # [2] each: norm, ratio
        self._live: Tensor | None = None  # which columns, of all layers, the task gave a gradient in this epoch
        self._skipped = torch.zeros((), dtype=torch.int64)

    @classmethod
    def paper(cls, model: nn.Module, **overrides: Any) -> Self:
        """The formulas of arXiv 2308.14938 as they stand, computed at every step, without a ridge or a cap.

        On layers of 100 units and more it is inert: |det W'| is far below epsilon, so the term is the constant
        1 / epsilon. `metrics()` warns of it.
        """
        return cls(model, **{**options.PAPER, **overrides})

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
            if sampling and self.layers:
                self._sample_task()
            if guiding:
                self._guide(step, sampling)

    def metrics(self) -> dict[str, float]:
        """What happened since the last call; to be called once, at the end of an epoch.

        `guidance/dense`, `guidance/conv`: the terms, unweighted, of the selected layers. `entropy/<layer>`: h per
        dimension (nats) by the configured measure, ridge included, the mean over taps or groups; of dense layers over
        their live columns only, those that the task gave a gradient in a step that was read, since the others, of
        inputs that are always 0, grow without a meaning. Both of the weights as they are now. `grad_norm/task`, over
        all layers that could be guided, and `grad_norm/guidance`, lambda-weighted and before the cap: means over the
        steps read (every 32nd, the first included), as is `guidance/ratio`, whose task norm is that of the guided
        weights. `guidance/skipped`: computations that were left out because the weights had no finite entropy gradient.

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
        self._task_samples, self._guidance_samples, self._live = [], [], None
        self._skipped = torch.zeros((), dtype=torch.int64)
        self._warn_of(values.get("guidance/ratio", math.nan))
        return values

    def _guide(self, step: int, sampling: bool) -> None:
        due = range(len(self._guided)) if self._stale else self._turns[step % len(self._turns)]
        self._stale = False
        for index in due:
            self._refresh(index)
        if due:
            self._flat = list(chain.from_iterable(self._cached))
            self._norm = _norm(self._flat)
        gradients = [_gradient(parameter) for parameter, _ in self._targets]
        targets = [view(gradient) for (_, view), gradient in zip(self._targets, gradients, strict=True)]
        if sampling:
            ratio = self._norm / _norm(gradients).clamp_min(NEGLIGIBLE)
            self._guidance_samples.append(torch.stack([self._norm, ratio]))
        share = 1.0 if self._max_ratio is None else self._capped(gradients, self._max_ratio)
        if isinstance(share, Tensor):
            torch._foreach_addcmul_(targets, self._flat, [share] * len(targets))
        else:
            torch._foreach_add_(targets, self._flat, alpha=share)

    def _capped(self, gradients: list[Tensor], max_ratio: float) -> float | Tensor:
        """What the cap leaves of the guidance gradient, of 1."""
        if self._norm.device.type != "cpu":  # reading a number would make a GPU wait at every step
            return (max_ratio * _norm(gradients) / self._norm.clamp_min(NEGLIGIBLE)).clamp_max(1.0)
        needed = float(self._norm) / max_ratio
        # A part's norm is at most that of the whole: where it is enough, nothing else need be read.
        witness = gradients[self._witness]
        if float(torch.linalg.vector_norm(witness[: 1 + len(witness) // 8])) >= needed:
            return 1.0
        norms = [float(norm) for norm in torch._foreach_norm(gradients)]
        self._witness = max(range(len(norms)), key=norms.__getitem__)
        return min(1.0, math.hypot(*norms) / max(needed, NEGLIGIBLE))

    def _refresh(self, index: int) -> None:
        """Computes the lambda-weighted gradient of one layer's part of the loss."""
        layer = self._guided[index]
        name, (form, constant) = self._forms[layer.kind], self._form(layer)
        dimensions = layer.dimensions if self._per_dimension else 1

        def slope(h: Tensor) -> Tensor:
            if layer.measure == "taps" and name != "target":  # which must see how far below the floor a tap is
                h = h.clamp_min(math.log(TAP_FLOOR))
            return form.slope(h / dimensions, constant) * (self._factors[index] / (dimensions * h.numel()))

        h, gradients = layer.gradient(self._ridge, slope)
        skipped = ~(_norm(gradients) + h.sum()).isfinite()
        self._skipped = self._skipped + skipped
        targets = zip(gradients, layer.parameters, strict=True)
        self._cached[index] = [gradient.masked_fill_(skipped, 0).to(p.dtype) for gradient, p in targets]

    def _form(self, layer: Layer) -> tuple[Form, float]:
        """The loss term of a layer and its constant."""
        name = self._forms[layer.kind]
        if name != "target":
            return FORMS[name], self._epsilon
        return FORMS[name], self._target * (1 if self._per_dimension else layer.dimensions)

    def _sample_task(self) -> None:
        """Reads the task's gradient: its norm, and which inputs have one."""
        self._task_samples.append(_norm([_gradient(p) for layer in self.layers for p in layer.parameters]))
        live = [layer.live_columns() for layer in self.layers if layer.tells_live_columns]
        if live:
            self._live = torch.cat(live) if self._live is None else self._live.logical_or_(torch.cat(live))

    def _terms_and_entropies(self) -> dict[str, float]:
        """Both terms and each layer's entropy, read from the device at once."""
        entropies: dict[str, Tensor] = {}
        terms: dict[str, list[Tensor]] = {}
        columns = self._columns()
        for layer in self.layers:
            h = layer.entropy(self._ridge)
            entropy = h / layer.dimensions
            if layer in self.selected:
                form, constant = self._form(layer)
                terms.setdefault(layer.kind, []).append(form.value(entropy if self._per_dimension else h, constant))
            live = columns.get(layer)
            if live is not None:
                entropy = layer.entropy(self._ridge, live) / min(layer.dimensions, len(live))
            entropies[f"entropy/{layer.name}"] = entropy
        if not entropies:
            return {}
        values = {
            f"guidance/{kind}": torch.stack([_mean(part) for part in parts]).sum() / self._divisor(kind)
            for kind, parts in terms.items()
        }
        values |= {name: _mean(entropy) for name, entropy in entropies.items()}
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def _columns(self) -> dict[Layer, Tensor]:
        """The live columns of the layers that have dead ones as well."""
        columns: dict[Layer, Tensor] = {}
        if self._live is None:
            return columns
        flags = iter(self._live.tolist())
        for layer in self.layers:
            if layer.tells_live_columns:
                live = list(compress(range(layer.shape[1]), flags))
                if 0 < len(live) < layer.shape[1]:
                    columns[layer] = torch.tensor(live, device=layer.parameters[0].device)
        return columns

    def _divisor(self, kind: str) -> int:
        """The number of layers of a term, for a mean over them; 1 for a sum."""
        return sum(layer.kind == kind for layer in self.selected) if self._reduction == "mean" else 1

    def _tell_what_is_guided(self) -> None:
        lost = ", ".join(layer.name for layer in self.left_out if self._lambdas[layer.kind] > 0)
        why = (
            "left out, since a normalisation follows, so that nothing would hold their growing weights back (name them "
            f"under layers to guide them all the same, or use form or conv_form target): {lost}"
        )
        if any(self._lambdas.values()) and not self._guided:
            found = [
                f"{layer.kind} {layer.name}" + (" (not selected)" * (layer not in self.selected))
                for layer in self.layers
            ]
            raise ValueError(
                f"lambda1 = {self._lambdas['dense']}, lambda2 = {self._lambdas['conv']}, but the model has no layer to "
                f"guide (found: {', '.join(found) or 'none'}). {'; '.join(KINDS.values())}. The weights must be "
                f"trainable." + (f" {why[0].upper()}{why[1:]}" if lost else "")
            )
        if lost:
            warnings.warn(f"layers of guidance {why}", GuidanceWarning, stacklevel=3)

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


def _mean(values: Tensor) -> Tensor:
    return values.mean() if values.dim() else values


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
