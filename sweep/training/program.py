"""A trained network as a program that takes images as they are stored: what MLflow and `sweep train --out` keep."""

import contextlib
import io
import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..config.filesystem import write_atomically
from ..config.trial_config import TrialConfig
from ..data.loading import load_dataset
from ..data.normalisation import Normalisation
from . import checkpoint
from .loop import moments
from .reports import TrialPaths
from .trial import build, task_kind, task_of

METADATA = "metadata.json"  # the extra file of an exported program
OUTPUTS = {
    "classification": "float32 [N, {classes}], scores; the class of an image is the index of the largest",
    "segmentation": "float32 [N, {classes}, {height}, {width}], scores of each pixel's class",
    "reconstruction": "float32 [N, {channels}, {height}, {width}], images in [0, 1]",
}


@dataclass(frozen=True)
class Program:
    """A network on the CPU, with the normalisation before it, and a description."""

    network: nn.Module
    normalisation: nn.Module
    images: Tensor  # some that it takes, [N, C, H, W], for the exporter
    metadata: Mapping[str, object]  # JSON

    @property
    def module(self) -> nn.Module:
        """The normalisation and the network, in eval mode."""
        return nn.Sequential(OrderedDict(normalisation=self.normalisation, network=self.network)).eval()

    @property
    def example(self) -> Tensor:
        """A batch of two images or more, since the exporter treats a dimension of size 1 as a constant."""
        return self.images if len(self.images) > 1 else self.images.repeat_interleave(2, 0)


def trained_program(
    config: TrialConfig, paths: TrialPaths, saved: checkpoint.Checkpoint | None, *, study: str, trial: int | None = None
) -> Program:
    """Returns the program of a checkpoint, or an untrained one without a checkpoint."""
    dataset = load_dataset(config.data, root=paths.data, cache=paths.cache, seed=config.training.seed)
    network, info = build(config, dataset.info), dataset.info
    scaling = moments(info, task_of(config.task, network))
    metadata: dict[str, object] = {"study": study, **({} if trial is None else {"trial": trial})}
    if saved is not None:
        network.load_state_dict(saved.state["model"])
        last, metric = saved.history[-1], config.objective.metric
        metadata |= {"epoch": last.epoch, "metric": metric, "value": last.values[metric]}
    (channels, height, width), kind = info.in_shape, task_kind(config.task, network)
    sizes = {"classes": info.num_classes, "channels": channels, "height": height, "width": width}
    metadata |= {
        "task": kind,
        "data": config.data.name,
        "input": f"uint8 [N, {channels}, {height}, {width}], 0 to {info.scale}",
        "output": OUTPUTS[kind].format(**sizes),
        "classes": list(info.classes),
        "preprocessing": {
            "before": dataset.reader.preparation,
            "size": [height, width],
            "inside": f"divided by {info.scale}" + (", less mean, over std" if scaling else ""),
            **({"mean": list(scaling[0]), "std": list(scaling[1])} if scaling else {}),
        },
    }
    images, _ = next(dataset.val.uint8_batches(4, "cpu", None, ()))
    return Program(network, Normalisation(info.scale, scaling), images.clone(), metadata)


def export(program: Program) -> ExportedProgram:
    """Exports a program for any number of images; raises whatever the exporter raises of a user's own network."""
    with quiet_export(), torch.no_grad():
        return torch.export.export(program.module, (program.example,), dynamic_shapes=({0: Dim.DYNAMIC},))


def write(program: Program, path: Path) -> None:
    """Writes a file for `torch.export.load`, whose extra file ``metadata.json`` is the description."""
    exported = export(program)
    with write_atomically(path) as beside, beside.open("wb") as file:
        torch.export.save(exported, file, extra_files={METADATA: json.dumps(program.metadata, indent=2)})


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Hides the pages of graphs that the exporter prints for a model that it cannot export."""
    logger = logging.getLogger("torch")
    handlers, logger.handlers = logger.handlers, [logging.NullHandler()]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.handlers = handlers
