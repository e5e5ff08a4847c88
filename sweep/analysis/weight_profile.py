"""Profiles the weights of a network as guidance measures them: entropy by layer, corner taps, singular values."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.cbook import boxplot_stats
from numpy.typing import NDArray

from ..config.errors import SweepError
from ..config.filesystem import parse_path
from ..config.settings import Settings
from ..losses.conv import corner_taps, taps
from ..training import checkpoint
from ..training.reports import EpochMetrics

logger = logging.getLogger(__name__)

RIDGE = 0.1  # guidance's default, so that entropies are comparable with those that a trial logs


@dataclass(frozen=True)
class LayerProfile:
    """The profile of one weight tensor."""

    name: str
    kind: Literal["dense", "conv"]  # a matrix or a 1x1 convolution; larger kernels
    shape: tuple[int, ...]
    entropy: float  # nats per dimension. Dense: log volume / k, with ridge 0.1. Conv: mean log|c11| over the filters
    values: NDArray[np.float64]  # dense: singular values [k], largest first. Conv: log|c11| of each filter [out * in]

    @cached_property
    def box(self) -> NDArray[np.float64]:
        """The five numbers of a box plot [5]: extremes within Tukey's fences, and quartiles; NaN if all taps are 0."""
        (stats,) = boxplot_stats(self.values[np.isfinite(self.values)])
        return np.array([stats[name] for name in ("whislo", "q1", "med", "q3", "whishi")])

    @cached_property
    def outliers(self) -> NDArray[np.float64]:
        """Values of ``conv`` beyond the fences, corner taps of exactly 0 (log -inf) included; empty for ``dense``."""
        if self.kind == "dense":
            return np.empty(0)
        return np.asarray(self.values[~((self.values >= self.box[0]) & (self.values <= self.box[-1]))])


@dataclass(frozen=True)
class WeightProfile:
    """The layers of one network, and the entropies that its trial logged, by epoch and layer."""

    title: str
    layers: list[LayerProfile]
    epochs: dict[int, dict[str, float]]


def profile_weights(
    title: str, weights: Mapping[str, torch.Tensor], history: Sequence[EpochMetrics] = ()
) -> WeightProfile:
    """Profiles a state dict; raises SweepError if nothing in it is a matrix or a kernel."""
    layers = [_layer(name.removesuffix(".weight"), w) for name, w in weights.items() if _is_weight(name, w)]
    if not layers:
        raise SweepError(f"{title}: no dense or convolutional weights among {', '.join(weights) or 'nothing'}")
    epochs: dict[int, dict[str, float]] = {}
    for each in history:
        if logged := {k.removeprefix("entropy/"): v for k, v in each.values.items() if k.startswith("entropy/")}:
            epochs[each.epoch] = logged
    return WeightProfile(title, layers, epochs)


def _is_weight(name: str, tensor: torch.Tensor) -> bool:
    return name.split(".")[-1] == "weight" and tensor.dim() >= 2 and tensor.is_floating_point()


def _layer(name: str, weight: torch.Tensor) -> LayerProfile:
    weight, shape = weight.detach().float(), tuple(weight.shape)
    if weight[0, 0].numel() == 1:
        matrix = weight.flatten(1)
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        # Eigenvalues of the k x k Gram matrix: several times as fast as an SVD, and accurate enough for the figure.
        squares = torch.linalg.eigvalsh(wide @ wide.mT).flip(0).clamp_min(0).double()
        entropy = (squares + RIDGE**2 * squares.mean()).log().mean() / 2
        return LayerProfile(name, "dense", shape, float(entropy), squares.sqrt().numpy())
    values = taps(corner_taps(weight)).flatten().double().numpy()
    return LayerProfile(name, "conv", shape, float(values.mean()), values)


def load_profile(source: str, settings: Settings, sizes: Mapping[str, Any]) -> list[WeightProfile]:
    """Profiles a run (``digits-0017``) and its control, a checkpoint file, or a new network (``package.module:Net``).

    ``sizes`` are keyword arguments of the network's class. Raises SweepError if there is no such source, or no weights.
    """
    torch.set_num_threads(1)  # for matrices of this size, threads cost more than they save
    if source.startswith("s3://") or Path(source).is_file():
        try:
            saved = checkpoint.load(parse_path(source))
        except Exception as error:
            raise SweepError(f"{source}: not a checkpoint of a trial ({error})") from error
        return [_of_checkpoint(source, saved)]
    if ":" in source:
        return [profile_weights(source, _made(source, sizes).state_dict())]
    run = re.fullmatch(r"(?P<study>.+?)(?P<sister>\.controls)?-(?P<number>\d{4,})", source)
    if run is None:
        network = "the import path of a network (package.module:Net)"
        raise SweepError(f"{source}: neither a run (digits-0017), nor a checkpoint file, nor {network}")
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
    """Profiles a run and its control, on the same seed if there is one."""
    # Imported here: Optuna and SQLAlchemy are not needed to profile a network by its import path.
    from ..study.finalists import unguided
    from .summary import summarise

    summary = summarise(name, settings)
    rows = {row.number: row for row in (summary.controls if sister else summary.rows)}
    if number not in rows:
        raise SweepError(f"{name}{sister}-{number:04d}: {name}{sister} has trials 0 to {len(rows) - 1}")
    row = rows[number]
    profile = _of_trial(f"{name}{sister}", row.number, settings, f"{row.kind} {name}{sister}-{number:04d}")
    values = unguided({**summary.config.constants, **row.hyperparameters})
    controls = [r for r in summary.controls if r.kind == "control" and r is not row and r.hyperparameters == values]
    control = min(controls, key=lambda r: (r.seed != row.seed, r.number), default=None)
    if control is None:
        logger.info("%s has no control: profiling the run alone", profile.title)
        return [profile]
    title = f"control {name}.controls-{control.number:04d}" + ("" if control.seed == row.seed else ", another seed")
    try:
        return [profile, _of_trial(f"{name}.controls", control.number, settings, title)]
    except SweepError as error:  # the best trials keep their weights longer than controls
        logger.info("profiling the run alone: %s", error)
        return [replace(profile, title=f"{profile.title}, whose control has no weights left")]


def _of_trial(study: str, number: int, settings: Settings, title: str) -> WeightProfile:
    saved = checkpoint.load_latest(settings.checkpoints(study, number))
    if saved is None:
        raise SweepError(f"{title}: it has no checkpoint in {settings.checkpoints(study, number)}")
    return _of_checkpoint(title, saved)


def _of_checkpoint(title: str, saved: checkpoint.Checkpoint) -> WeightProfile:
    if not saved.state:
        raise SweepError(f"{title}: {saved.path} holds its metrics alone; sweep gc has removed its weights")
    return profile_weights(title, saved.state["model"], saved.history)
