"""What a network's weights look like to guidance: entropy by layer and epoch, corner taps, singular values.

Reads weights alone, by name and shape: of a run's newest checkpoint, of any checkpoint, or of a network as it is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..config.errors import SweepError
from ..config.filesystem import parse_path
from ..losses.conv import corner_taps, taps
from ..training import checkpoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ..config.search_space import Scalar
    from ..config.settings import Settings
    from ..training.reports import EpochMetrics


RIDGE = 0.1  # guidance's default: entropies are comparable with those that a trial logs
FENCE = 1.5  # outliers lie beyond the quartiles by more than this times their distance (Tukey)
SHOWN = 40  # layers drawn in one figure, the first ones


@dataclass(frozen=True)
class LayerProfile:
    """One weight.

    Attributes:
        kind: ``dense``: a matrix, 1x1 convolutions included; ``conv``: kernels.
        entropy: nats per dimension: log volume / k of a matrix, ridge 0.1; mean log|c11| over the filters of kernels.
        values: singular values [k] of a matrix, largest first; log|c11| of each filter [out * in] of kernels.
    """

    name: str
    kind: Literal["dense", "conv"]
    shape: tuple[int, ...]
    entropy: float
    values: NDArray[np.float64]

    @cached_property
    def box(self) -> NDArray[np.float64]:
        """Of kernels: least, quartiles and greatest of the filters within Tukey's fences [5]; NaN where all are 0."""
        finite = self.values[np.isfinite(self.values)]
        if not len(finite):
            return np.full(5, np.nan)
        low, median, high = np.percentile(finite, [25, 50, 75])
        reach = FENCE * (high - low)
        inside = finite[(finite >= low - reach) & (finite <= high + reach)]
        return np.array([inside.min(), low, median, high, inside.max()])

    @cached_property
    def outliers(self) -> NDArray[np.float64]:
        """Of kernels: the filters beyond the fences; those whose corner tap is exactly 0 among them."""
        if self.kind == "dense":
            return np.empty(0)
        inside = (self.values >= self.box[0]) & (self.values <= self.box[-1])
        outside: NDArray[np.float64] = self.values[~inside]
        return outside


@dataclass(frozen=True)
class WeightProfile:
    """The layers of one network, and what its trial logged of them: epoch -> layer -> entropy."""

    title: str
    layers: list[LayerProfile]
    epochs: dict[int, dict[str, float]]


def of_weights(title: str, weights: Mapping[str, torch.Tensor], history: Sequence[EpochMetrics] = ()) -> WeightProfile:
    """Profiles a state dict.

    Raises:
        SweepError: nothing in it is a matrix or a kernel.
    """
    layers = [_layer(name.removesuffix(".weight"), w) for name, w in weights.items() if _is_weight(name, w)]
    if not layers:
        raise SweepError(f"{title}: no dense or convolutional weights among {', '.join(weights) or 'nothing'}")
    prefix = "entropy/"
    epochs = {
        m.epoch: {k.removeprefix(prefix): v for k, v in m.values.items() if k.startswith(prefix)} for m in history
    }
    return WeightProfile(title, layers, {epoch: values for epoch, values in epochs.items() if values})


def _is_weight(name: str, tensor: torch.Tensor) -> bool:
    return name.split(".")[-1] == "weight" and tensor.dim() >= 2 and tensor.is_floating_point()


def _layer(name: str, weight: torch.Tensor) -> LayerProfile:
    weight, shape = weight.detach().float(), tuple(weight.shape)
    if weight[0, 0].numel() == 1:
        matrix = weight.flatten(1)
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        # Of the k x k Gram matrix: several times as fast as a decomposition of the matrix, and accurate where it shows.
        squares = torch.linalg.eigvalsh(wide @ wide.mT).flip(0).clamp_min(0).double()
        entropy = (squares + RIDGE**2 * squares.mean()).log().mean() / 2
        return LayerProfile(name, "dense", shape, float(entropy), squares.sqrt().numpy())
    values = taps(corner_taps(weight)).flatten().double().numpy()
    return LayerProfile(name, "conv", shape, float(values.mean()), values)


def load_profile(source: str, settings: Settings, sizes: Mapping[str, Any]) -> list[WeightProfile]:
    """Profiles a run of MLflow's (``digits-0017``) beside its control, a checkpoint file, or ``package.module:Net``.

    Args:
        source: one of these.
        settings: where studies and checkpoints are.
        sizes: what the network's class is called with.

    Raises:
        SweepError: there is no such thing; says what there may be.
    """
    torch.set_num_threads(1)  # for matrices of this size more of them cost more than they bring
    if source.startswith("s3://") or Path(source).is_file():
        try:
            saved = checkpoint.load(parse_path(source))
        except Exception as error:
            raise SweepError(f"{source}: not a checkpoint of a trial ({error})") from error
        return [_of_checkpoint(source, saved)]
    if ":" in source:
        return [of_weights(source, _made(source, sizes).state_dict())]
    run = re.fullmatch(r"(?P<study>.+?)(?P<sister>\.controls)?-(?P<number>\d{4,})", source)
    if run is None:
        raise SweepError(
            f"{source}: neither a run (digits-0017), nor a checkpoint file, nor the import path of a network "
            "(package.module:Net)"
        )
    return _of_run(run["study"], run["sister"] or "", int(run["number"]), settings)


def _made(source: str, sizes: Mapping[str, Any]) -> torch.nn.Module:
    from ..config.user_code import ImportPathError, import_object, search_in, user_error_location

    search_in(Path.cwd())
    try:
        network = import_object(source)(**sizes)
    except ImportPathError as error:
        raise SweepError(str(error)) from None
    except Exception as error:  # whatever the user's code raises
        hint = "Sizes are given as --set depth=4 --set in_shape=[3,32,32]."
        raise SweepError(f"{source}: {user_error_location(error)}. {hint}") from error
    if not isinstance(network, torch.nn.Module):
        raise SweepError(f"{source}: made a {type(network).__name__}, not a torch.nn.Module")
    return network


def _of_run(name: str, sister: str, number: int, settings: Settings) -> list[WeightProfile]:
    """The run, and the control that shares everything but guidance with it, of the same seed where there is one."""
    from ..study.finalists import (
        unguided,  # with Optuna and SQLAlchemy, which a network by its import path does not need
    )
    from ..study.storages.catalog import load_stored_config
    from .summary import summarise

    config, summary = load_stored_config(name, settings), summarise(name, settings)
    rows = {row.number: row for row in (summary.controls if sister else summary.rows)}
    if number not in rows:
        raise SweepError(f"{name}{sister}-{number:04d}: {name}{sister} has trials 0 to {len(rows) - 1}")
    row = rows[number]
    profile = _of_trial(f"{name}{sister}", row.number, settings, f"{row.kind} {name}{sister}-{number:04d}")
    twin: dict[str, Scalar] = unguided({**config.constants, **row.hyperparameters})
    twins = [r for r in summary.controls if r.kind == "control" and r.hyperparameters == twin and r.number != number]
    control = min(twins, key=lambda r: (r.seed != row.seed, r.number), default=None)
    if control is None:
        return [profile]
    title = f"control {name}.controls-{control.number:04d}" + ("" if control.seed == row.seed else ", another seed")
    try:
        return [profile, _of_trial(f"{name}.controls", control.number, settings, title)]
    except SweepError:  # the best trials keep their weights longer than controls
        return [replace(profile, title=f"{profile.title}, whose control has no weights left")]


def _of_trial(study: str, number: int, settings: Settings, title: str) -> WeightProfile:
    saved = checkpoint.load_latest(settings.checkpoints(study, number))
    if saved is None:
        raise SweepError(f"{title}: it has no checkpoint in {settings.checkpoints(study, number)}")
    return _of_checkpoint(title, saved)


def _of_checkpoint(title: str, saved: checkpoint.Checkpoint) -> WeightProfile:
    if not saved.state:
        raise SweepError(f"{title}: {saved.path} holds its metrics alone; sweep gc has removed its weights")
    return of_weights(title, saved.state["model"], saved.history)


def draw_profile(profiles: Sequence[WeightProfile], file: Path) -> None:
    """Draws a figure, one column a profile: entropy by layer and epoch, corner taps, singular values.

    Raises:
        SweepError: an ending that stands for no kind of picture.
    """
    from matplotlib.figure import Figure

    columns, layers = len(profiles), [layer for p in profiles for layer in p.layers[:SHOWN]]
    # In inches. Margins by hand: matplotlib's own layout would draw all texts a second time.
    left, width, gap = 1 + 0.055 * max(len(layer.name) for layer in layers), 5.0, 0.8
    row = max(2.4, 0.145 * max(len(p.layers[:SHOWN]) for p in profiles))
    total, height = columns * (left + width) + 0.1, 3 * row + 2 * gap + 1
    figure = Figure(figsize=(total, height))
    figure.subplots_adjust(left / total, 0.6 / height, 1 - 0.1 / total, 1 - 0.4 / height, left / width, gap / row)
    grid = figure.subplots(3, columns, squeeze=False)
    entropies = np.array([h for p in profiles for values in _epochs(p).values() for h in values.values()])
    reach = float(np.max(np.abs(entropies[np.isfinite(entropies)]), initial=1e-9))
    for column, profile in zip(grid.T, profiles, strict=True):
        if column[0] is not grid[0, 0]:  # side by side on the same scales
            column[1].sharex(grid[1, 0])
            column[2].sharey(grid[2, 0])
        _draw_epochs(column[0], profile, reach)
        _draw_taps(column[1], [layer for layer in profile.layers if layer.kind == "conv"][:SHOWN])
        _draw_singular_values(column[2], [layer for layer in profile.layers if layer.kind == "dense"][:SHOWN])
        column[0].set_title(profile.title)
    try:
        figure.savefig(file, dpi=110)
    except ValueError as error:
        raise SweepError(f"--out {file}: {error}") from None


def _epochs(profile: WeightProfile) -> dict[int, dict[str, float]]:
    """Entropy by epoch and layer; of a network without a history as epoch 0."""
    return profile.epochs or {0: {layer.name: layer.entropy for layer in profile.layers}}


def _draw_epochs(axes: Axes, profile: WeightProfile, reach: float) -> None:
    """Heat map of Delta H, layer x epoch, in colours from -reach to reach."""
    epochs, names = _epochs(profile), [layer.name for layer in profile.layers[:SHOWN]]
    cells = np.array([[values.get(name, np.nan) for values in epochs.values()] for name in names])
    image = axes.imshow(cells, aspect="auto", cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(sorted({0, len(epochs) - 1}), [str(e) for e in sorted({min(epochs), max(epochs)})])
    axes.set_xlabel("epoch" if profile.epochs else "as made")
    axes.figure.colorbar(image, ax=axes).set_label("entropy change, nats per dimension", fontsize=7)


def _draw_taps(axes: Axes, layers: Sequence[LayerProfile]) -> None:
    """A box plot for each layer, all of them in four artists; matplotlib's own has six for each."""
    if not layers:
        axes.text(0.5, 0.5, "no convolutions", ha="center", va="center", transform=axes.transAxes)
        return
    rows, outliers = np.arange(len(layers)), [layer.outliers for layer in layers]
    least, low, median, high, greatest = np.array([layer.box for layer in layers]).T
    axes.hlines(rows, least, greatest, color="black", linewidth=1)
    axes.hlines(rows, low, high, color="tab:blue", linewidth=6)
    axes.plot(median, rows, "|", color="white", markersize=6)
    axes.plot(np.concatenate(outliers), np.repeat(rows, [len(o) for o in outliers]), "k.", markersize=3)
    axes.set_yticks(rows, [f"{x.name} ({len(o)})" for x, o in zip(layers, outliers, strict=True)], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("log|c11| of each filter; in brackets: outliers, drawn as dots")


def _draw_singular_values(axes: Axes, layers: Sequence[LayerProfile]) -> None:
    if not layers:
        axes.text(0.5, 0.5, "no dense layers", ha="center", va="center", transform=axes.transAxes)
        return
    for layer in layers:
        positive = layer.values[layer.values > 0]
        axes.semilogy(np.linspace(0, 1, len(positive)), positive, label=layer.name, linewidth=1)
    axes.set_xlabel("rank / k")
    axes.set_ylabel("singular value")
    if len(layers) <= 12:
        axes.legend(fontsize=7)
