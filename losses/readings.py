"""The readings of an epoch that guidance reports: gradient norms, live columns, terms and entropies."""

from collections.abc import Collection, Mapping, Sequence
from itertools import compress

import torch
from torch import Tensor

from .gradient_cache import gradient_of, norm_of
from .layers import Kind, Layer
from .terms import LossTerm


class GradientReadings:
    """The gradients that were read in some steps of an epoch.

    Args:
        layers: All layers whose entropy is measured.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self.clear()

    def clear(self) -> None:
        """Forgets the readings, for a new epoch."""
        self._task: list[Tensor] = []
        self._guidance: list[Tensor] = []
        self._live: Tensor | None = None  # by input of all layers in turn: the task gave it a gradient in this epoch

    def read_task(self) -> None:
        """Reads the task's gradient: its norm, and the inputs that have one."""
        self._task.append(norm_of([gradient_of(p) for layer in self._layers for p in layer.parameters]))
        live = [layer.live_columns() for layer in self._layers if layer.has_input_columns]
        if live:
            self._live = torch.cat(live) if self._live is None else self._live.logical_or_(torch.cat(live))

    def add_guidance(self, reading: Tensor) -> None:
        """Keeps a reading [2] of the guidance gradient: its norm, and its ratio to the task's."""
        self._guidance.append(reading)

    def means(self) -> dict[str, float]:
        """Returns the mean norms and the mean ratio over the steps that were read."""
        means = {}
        if self._task:
            means["grad_norm/task"] = float(torch.stack(self._task).mean())
        if self._guidance:
            norm, ratio = torch.stack(self._guidance).mean(0).tolist()
            means |= {"grad_norm/guidance": norm, "guidance/ratio": ratio}
        return means

    def live_columns(self) -> dict[Layer, Tensor]:
        """Returns the indices of the live columns, for layers that also have dead ones."""
        columns: dict[Layer, Tensor] = {}
        if self._live is None:
            return columns
        flags = iter(self._live.tolist())
        for layer in self._layers:
            if layer.has_input_columns:
                live = list(compress(range(layer.shape[1]), flags))
                if 0 < len(live) < layer.shape[1]:
                    columns[layer] = torch.tensor(live, device=layer.parameters[0].device)
        return columns


def terms_and_entropies(
    layers: Sequence[Layer],
    selected: Collection[Layer],
    terms: Mapping[Kind, LossTerm],
    divisors: Mapping[Kind, int],
    columns: Mapping[Layer, Tensor],
    ridge: float,
) -> dict[str, float]:
    """Returns `guidance/<kind>`, the unweighted terms, and `entropy/<layer>`, nats per dimension, read at once.

    Args:
        layers: The layers whose entropy is measured.
        selected: The layers that the terms are over.
        terms: The loss term of each kind.
        divisors: The number that the sum of a kind's terms is divided by.
        columns: The live columns of layers that have dead ones; their entropy is that of these columns.
        ridge: See `entropy.volume`.
    """
    entropies: dict[str, Tensor] = {}
    by_kind: dict[Kind, list[Tensor]] = {}
    for layer in layers:
        h = layer.entropy(ridge)
        if layer in selected:
            by_kind.setdefault(layer.kind, []).append(terms[layer.kind].value(layer, h))
        live = columns.get(layer)
        entropy = h / layer.dimensions
        if live is not None:
            entropy = layer.entropy(ridge, live) / min(layer.dimensions, len(live))
        entropies[f"entropy/{layer.name}"] = entropy
    if not entropies:
        return {}
    values = {
        f"guidance/{kind}": torch.stack([_mean(part) for part in parts]).sum() / divisors[kind]
        for kind, parts in by_kind.items()
    }
    values |= {name: _mean(entropy) for name, entropy in entropies.items()}
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _mean(values: Tensor) -> Tensor:
    return values.mean() if values.dim() else values
