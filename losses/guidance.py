"""Entropy guidance for any training loop: L = L_task + lambda1 * L_dense + lambda2 * L_conv (arXiv 2308.14938).

`add_gradients()` adds the gradients of the two guidance terms to `.grad`, between `backward()` and `step()`.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from itertools import compress
from operator import is_
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .gradient_cache import GradientCache, gradient_of, norm_of
from .layers import Kind, Layer, guidable_layers, is_within, select
from .norm_detection import feeding_a_norm
from .options import DOMINANT, INERT, PAPER, LoopOptions, takes_options
from .terms import LossTerm
from .unguided import by_reason, trained, unguidable

logger = logging.getLogger(__name__)

SAMPLE_EVERY = 32  # steps between two readings of the gradients; every epoch's first step is read


class GuidanceWarning(UserWarning):
    """Guidance that changes nothing, or that outweighs the task, or that leaves weights out."""


class EntropyGuidance:
    """Adds entropy guidance to the gradients of a model, in any training loop.

    `layers.py` says which layers are guided; a weight that several modules share counts once. The model is on its
    device or moved there before the first step. `help(EntropyGuidance.__init__)` explains the options; the defaults
    suit most networks: `lambda1=1e-3` guides dense layers, `lambda2=0` leaves convolutions alone. With lambda1 =
    lambda2 = 0, a control, nothing is added, and `metrics()` still reports the task's norm and the entropies. Weight
    decay wd is the counterweight: with SGD, form `log` and no task, the k singular values of a layer come to rest at
    sqrt(lambda / (k wd)), lambda being the layer's share under `mean`.

    `unguided` has the reason for each parameter that is trained, has two dimensions or more and is not guided, by name.
    A `GuidanceWarning` names those that no option leaves out: `unguidable`, and `left_out` in front of a norm.

    Raises:
        ValueError: An option is out of range, no layer has a given name, a weight is lazy, complex or sharded, or a
            lambda is > 0 and the model has no layer that it could guide.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guidance = EntropyGuidance(model, lambda1=1e-3, batch_size=32)
        >>> for epoch in range(2):
        ...     guidance.start_epoch()
        ...     for inputs in torch.randn(3, 32, 8):
        ...         optimizer.zero_grad()
        ...         model(inputs).square().mean().backward()  # with a GradScaler: scaler.unscale_(optimizer) next
        ...         guidance.add_gradients()
        ...         optimizer.step()
        >>> list(guidance.metrics())[:3]
        ['guidance/dense', 'entropy/0', 'entropy/2']
    """

    @takes_options(LoopOptions)
    def __init__(self, model: nn.Module, options: LoopOptions) -> None:
        """Selects the layers of a model that are guided."""
        self.options = options
        self._terms = {"dense": LossTerm(options.form, options), "conv": LossTerm(options.conv_form, options)}
        self._lambdas: dict[Kind, float] = {"dense": options.lambda1, "conv": options.lambda2}
        self._model, self._seed = model, torch.initial_seed() % 2**62
        self._group: dist.ProcessGroup | None = None
        self._warned: set[str] = set()  # the states and the names of weights that were warned of
        self._select_layers()
        self._require_layers(stacklevel=4)

    @classmethod
    def paper(cls, model: nn.Module, **overrides: Any) -> Self:
        """Returns guidance by the formulas of arXiv 2308.14938 as they stand, at every step, without ridge or cap.

        On layers of 100 units and more it is inert: |det W'| is far below epsilon, so the term is the constant
        1 / epsilon. `metrics()` warns of it.
        """
        return cls(model, **{**PAPER, **overrides})

    def distribute(self, group: dist.ProcessGroup) -> None:
        """Divides the layers among the processes of a group, so that each guidance gradient is computed once.

        All of them call it before their first step, and hold the same weights, as `DistributedDataParallel` ensures.
        Without it each process computes all of the gradients.
        """
        self._group = group
        self._select_layers()

    def start_epoch(self) -> None:
        """Makes the next step compute every layer's guidance gradient, so that a checkpoint needs none of them.

        Weights that were replaced, pruned, parametrised, frozen or added since are followed from here on.

        Raises:
            ValueError: There is nothing to guide any more, or a weight is lazy, complex or sharded.
        """
        now = trained(self._model)
        if [*now] != [*self._trained] or not all(map(is_, now.values(), self._trained.values())):
            self._select_layers()
            self._require_layers(stacklevel=3)
        self._step = 0
        self._cache.expired = True

    def add_gradients(self, progress: float = 0.0) -> None:
        """Adds the guidance gradients to `.grad`; to be called once per optimizer step, after `backward()`.

        The option `until` is compared with `progress`, the fraction of the run that is done, in [0, 1).
        """
        step, self._step = self._step, self._step + 1
        until = self.options.until
        guiding = bool(self._guided) and (until is None or progress < until)
        sampling = step % SAMPLE_EVERY == 0
        if not guiding and not sampling:
            return
        with torch.no_grad():
            if sampling and self.layers:
                self._read_task()
            if guiding:
                reading = self._cache.add(step, sample=sampling)
                self._guidance_readings += [] if reading is None else [reading]

    def metrics(self) -> dict[str, float]:
        """Returns the metrics since the last call; to be called once, at the end of an epoch.

        - `guidance/dense`, `guidance/conv`: the terms of the selected layers, unweighted, of the weights as they are.
        - `entropy/<layer>`: h per dimension (nats) by the configured measure, ridge included, of the weights as they
          are; the mean over taps or groups. Dense layers are measured over their live columns, those that the task
          gave a gradient in a step that was read: columns of inputs that are always 0 grow without a meaning.
        - `grad_norm/task`: norm of the task's gradient over all layers that could be guided.
        - `grad_norm/guidance`: norm of the guidance gradient, lambda-weighted, before the cap.
        - `guidance/ratio`: that norm over the task's norm on the guided weights.
        - `guidance/skipped`: number of gradients left out because the weights had no finite entropy gradient.

        The norms and the ratio are means over the steps that were read, every 32nd of an epoch from the first on.
        A `GuidanceWarning` comes once per instance each if the ratio shows guidance to be inert or dominant.
        """
        with torch.no_grad():
            values = self._terms_and_entropies()
        if self._task_norms:
            values["grad_norm/task"] = float(torch.stack(self._task_norms).mean())
        if self._guidance_readings:
            norm, ratio = torch.stack(self._guidance_readings).mean(0).tolist()
            skipped = float(self._cache.skipped)
            values |= {"grad_norm/guidance": norm, "guidance/ratio": ratio, "guidance/skipped": skipped}
        self._clear_readings()
        self._warn_of(values.get("guidance/ratio", math.nan))
        return values

    def _clear_readings(self) -> None:
        self._task_norms: list[Tensor] = []
        self._guidance_readings: list[Tensor] = []  # [2] each: norm, ratio to the task's
        self._live: Tensor | None = None  # by input of all layers in turn: the task gave it a gradient in this epoch
        self._cache.skipped = torch.zeros((), dtype=torch.int64)

    def _read_task(self) -> None:
        """Reads the task's gradient: its norm, and the inputs that have one."""
        self._task_norms.append(norm_of([gradient_of(p) for layer in self.layers for p in layer.parameters]))
        # A column is 0 if its input was 0 in the whole batch, or reached no output: Adam moves it by guidance alone.
        live = [x.view(gradient_of(x.parameters[0])).any(0) for x in self.layers if x.has_input_columns]
        if live:
            self._live = torch.cat(live) if self._live is None else self._live.logical_or_(torch.cat(live))

    def _terms_and_entropies(self) -> dict[str, float]:
        """Returns both terms and each layer's entropy, read from the device at once."""
        entropies: dict[str, Tensor] = {}
        terms: dict[Kind, list[Tensor]] = {}
        columns, ridge = self._live_columns(), self.options.ridge
        for layer in self.layers:
            h = layer.entropy(ridge)
            if layer in self.selected:
                terms.setdefault(layer.kind, []).append(self._terms[layer.kind].value(layer, h).mean())
            entropy = h / layer.dimensions
            if (live := columns.get(layer)) is not None:
                entropy = layer.entropy(ridge, live) / min(layer.dimensions, len(live))
            entropies[f"entropy/{layer.name}"] = entropy.mean()
        if not entropies:
            return {}
        values = {f"guidance/{kind}": torch.stack(x).sum() / self._divisor(kind) for kind, x in terms.items()}
        values |= entropies
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def _live_columns(self) -> dict[Layer, Tensor]:
        """Returns the indices of the live columns, for layers that also have dead ones."""
        columns: dict[Layer, Tensor] = {}
        flags = iter([] if self._live is None else self._live.tolist())
        for layer in self.layers:
            if layer.has_input_columns:
                live = list(compress(range(layer.shape[1]), flags))
                if 0 < len(live) < layer.shape[1]:
                    columns[layer] = torch.tensor(live, device=layer.parameters[0].device)
        return columns

    def _divisor(self, kind: Kind) -> int:
        """Returns the number of layers of a term, for a mean over them; 1 for a sum."""
        return sum(layer.kind == kind for layer in self.selected) if self.options.reduction == "mean" else 1

    def _select_layers(self) -> None:
        """Selects the layers that are guided among those that the model has now."""
        model, options = self._model, self.options
        self._trained = trained(model)
        self.layers = list(guidable_layers(model, options.measure, options.conv_measure))  # whose entropy is measured
        others = unguidable(model, self._trained, self.layers)
        normalized = feeding_a_norm(model) if options.layers == "all" else set()
        self.left_out = [x for x in self.layers if x.name in normalized and self._terms[x.kind].form != "target"]
        self.selected = [x for x in select(self.layers, options.layers, others) if x not in self.left_out]
        self._guided = [layer for layer in self.selected if self._lambdas[layer.kind] > 0]
        named = isinstance(options.layers, Sequence) and options.layers != "all"
        self.unguidable = {x: y for x, y in others.items() if not named or is_within(x, options.layers)}
        reasons = {id(p): self._reason(x) for x in self.layers if x not in self._guided for p in x.parameters}
        weights = self._trained.items()
        self.unguided = others | {x: reasons[id(p)] for x, p in weights if id(p) in reasons and p.dim() >= 2}
        if options.placebo:
            self._guided = [layer.placebo(self._seed + index) for index, layer in enumerate(self._guided)]
        guided = [(x, self._terms[x.kind], self._lambdas[x.kind] / self._divisor(x.kind)) for x in self._guided]
        self._cache = GradientCache(guided, options, self._group)
        self._step = 0
        self._clear_readings()

    def _reason(self, layer: Layer) -> str:
        """Returns why a layer is not guided."""
        if layer in self.left_out:
            return "a normalisation follows"
        if layer not in self.selected:
            return "not among layers"
        return "lambda1 is 0" if layer.kind == "dense" else "lambda2 is 0"

    def _require_layers(self, stacklevel: int) -> None:
        """Raises an error if there is nothing to guide, and warns once of each weight that no option leaves out."""
        active = any(self._lambdas.values())
        lost = [layer.name for layer in self.left_out if self._lambdas[layer.kind] > 0]
        why = (
            "left out, since a normalisation follows, so that nothing would hold their growing weights back (name them "
            "under layers to guide them anyway, or use form or conv_form target): "
        )
        if active and not self._guided:
            found = [f"{x.kind} {x.name}" + " (not selected)" * (x not in self.selected) for x in self.layers]
            raise ValueError(
                f"lambda1 = {self._lambdas['dense']}, lambda2 = {self._lambdas['conv']}, but the model has no layer to "
                f"guide (found: {', '.join(found) or 'none'}). lambda1 guides nn.Linear, 1x1 convolutions and "
                "nn.MultiheadAttention; lambda2 guides the other nn.Conv1d, Conv2d, Conv3d and transposed ones. The "
                "weights must be trainable."
                + (f" Not guided: {by_reason(self.unguidable)}." if self.unguidable else "")
                + (f" {why[0].upper()}{why[1:]}{', '.join(lost)}" if lost else "")
            )
        if self.unguided:
            logger.info("not guided: %s", by_reason(self.unguided))
        asked = {x: reason for x, reason in self.unguidable.items() if active and x not in self._warned}
        lost = [name for name in lost if name not in self._warned]
        self._warned.update(asked, lost)
        messages = [f"trained weights are not guided: {by_reason(asked)}"] if asked else []
        messages += [f"layers of guidance {why}{', '.join(lost)}"] if lost else []
        if messages:
            warnings.warn("; ".join(messages), GuidanceWarning, stacklevel=stacklevel)

    def _warn_of(self, ratio: float) -> None:
        """Warns once if the ratio of an epoch shows guidance to be inert, and once if dominant."""
        state = "inert" if ratio < INERT else "dominant" if ratio > DOMINANT else None
        if state is None or state in self._warned:
            return
        self._warned.add(state)
        message = (
            f"guidance is inert: over an epoch its gradient was {ratio:.1e} of the task's (below {INERT:g}). "
            "Use scale 'per_dimension' with measure 'volume' (the determinant of a layer of 100 units and more is "
            "far below epsilon, whatever the weights), or a larger lambda1 or lambda2."
        )
        if state == "dominant":
            cap = self.options.max_ratio
            capped = "not capped (max_ratio None)" if cap is None else f"capped at {cap:g}"
            message = (
                f"guidance is dominant: over an epoch its gradient was {ratio:.3g} times the task's, {capped}. "
                "Lower lambda1 or lambda2, raise epsilon, or set max_ratio (0.1 makes any lambda harmless)."
            )
        warnings.warn(message, GuidanceWarning, stacklevel=3)
