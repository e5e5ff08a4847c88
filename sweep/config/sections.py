"""The sections of a study file: model, data, task, objective, guidance, training, search and resources, validated."""

from __future__ import annotations

import math
import re
import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ..losses.options import layers_problem
from .search_methods import PrunerName, SamplerName


class Section(BaseModel):
    """A mapping of a study file: its keys are known, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuses true and false where pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and info.field_name is not None:
            annotation = str(cls.model_fields[info.field_name].annotation)
            if "bool" not in annotation and ("int" in annotation or "float" in annotation):
                raise ValueError(f"must be a number, not {str(value).lower()}")
        return value


class ModelConfig(Section):
    """The architecture family; further keys are options of that family (`latent` of `autoencoder`, ...)."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str = Field(
        description="Architecture family: mlp, autoencoder, cnn, conv_autoencoder, resnet or unet; or one of your own, "
        "package.module:Class."
    )
    depth: int | None = Field(None, ge=1, description="Depth, where it is not searched (see the model's docstring).")
    width: int | None = Field(None, ge=1, description="Width, where it is not searched (see the model's docstring).")


class DataConfig(Section):
    """The data set and how much of it is used."""

    name: str = Field(
        description="digits, mnist, fashion_mnist, cifar10, cifar100, imagefolder or voc; or package.module:name."
    )
    folder: str | None = Field(None, description="Of imagefolder and voc: absolute, or below the data root.")
    image_size: int | tuple[int, int] | None = Field(
        None, description="Of imagefolder and voc: pixels, for both sides or as [height, width]."
    )
    num_classes: int | None = Field(None, ge=1, le=255, description="Of voc: labels are 0 to num_classes - 1.")
    ignore_index: int | None = Field(None, ge=0, le=255, description="Of voc: a label that counts nowhere, as 255.")
    year: int | None = Field(None, description="Of voc: the folder is VOCdevkit/VOC<year>; 2012 if not given.")
    train_size: int | None = Field(None, ge=1, description="Train on a class-balanced subset of this many images.")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the training part held out for validation.")
    augment: tuple[Literal["crop", "flip"], ...] = Field((), description="Random crops and horizontal flips.")

    @field_validator("image_size", mode="before")
    @classmethod
    def _pixels(cls, value: object) -> object:
        sides = value if isinstance(value, list | tuple) else (value, value)
        if value is not None and (len(sides) != 2 or not all(type(n) is int and 1 <= n <= 4096 for n in sides)):
            raise ValueError("must be a number of pixels, 1 to 4096, or [height, width]")
        return value

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of ``image_size``; (0, 0) without."""
        sides = self.image_size or 0
        return (sides, sides) if isinstance(sides, int) else sides


IMPORT_PATH = "Import path of your own, package.module:name, searched for here and beside the study file"


class TaskConfig(Section):
    """What the network is trained for, where the model does not say it, and a loss and metrics of your own."""

    kind: Literal["classification", "segmentation", "reconstruction"] | None = Field(
        None, description="Of a model of your own without an attribute `task`; default: classification."
    )
    loss: str | None = Field(
        None, description=f"{IMPORT_PATH}: (output, target) -> mean over the batch. Default: the task's."
    )
    metrics: dict[str, str] = Field(
        {}, description=f"By name. {IMPORT_PATH}: (outputs, targets) -> a number; {{f1: ...}} gives val_f1."
    )

    @field_validator("metrics")
    @classmethod
    def _plain_names(cls, metrics: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in metrics if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: names are letters, digits and '_', a letter first")
        return metrics


class Objective(Section):
    """The number the search optimises: a validation metric of the task, never the guided loss."""

    metric: str = Field(
        description="val_loss, val_accuracy (classification), val_iou (segmentation), val_psnr (reconstruction), or "
        "val_<name> of a metric of your own."
    )
    direction: Literal["minimize", "maximize"]
    at: Literal["last", "best"] = Field("last", description="The metric's value at the last epoch, or its best one.")
    target: float | None = Field(None, description="A value of the metric to reach: logs epochs_to_target.")

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is strictly better than ``b``."""
        return a < b if self.direction == "minimize" else a > b

    def reached(self, value: float) -> bool:
        """Whether ``value`` is at the target or beyond it."""
        return self.target is not None and not self.better(self.target, value)


class GuidanceConfig(Section):
    """Entropy guidance; the fields are those of `losses.EntropyGuidance`, which explains them at length."""

    lambda1: float = Field(1e-3, ge=0, description="Weight of the dense term.")
    lambda2: float = Field(0.0, ge=0, description="Weight of the convolutional term.")
    epsilon: float = Field(1e-3, gt=0, description="Keeps the reciprocal form finite: 1 / (exp(h) + epsilon).")
    measure: Literal["volume", "minor"] = Field(
        "volume", description="Entropy change h of a matrix: sum of log singular values, or log|det| of its block."
    )
    form: Literal["log", "reciprocal", "target"] = Field(
        "reciprocal", description="Dense loss term: -h, 1 / (exp(h) + epsilon), or (h - target)^2."
    )
    conv_measure: Literal["taps", "channels"] = Field(
        "taps", description="Entropy change of a convolution: log|c11| of each filter, or log|det K11| of the layer."
    )
    conv_form: Literal["log", "reciprocal", "target"] = Field(
        "log", description="Convolutional loss term, as form; in gradients |c11| below 0.01 counts as 0.01."
    )
    target: float = Field(0.0, description="Entropy change that the target form keeps, nats per dimension.")
    scale: Literal["per_dimension", "determinant"] = Field(
        "per_dimension", description="Whether h is divided by the dimensions of its matrix or taken as it is."
    )
    reduction: Literal["mean", "sum"] = Field("mean", description="Over the layers of each term.")
    layers: Literal["all"] | dict[Literal["first", "last"], int] | tuple[str, ...] = Field(
        "all", description="Guided layers: all (but those in front of a norm), {first: n}, {last: n}, or names."
    )
    ridge: float = Field(0.1, ge=0, description="Ridge tau of the dense measures, relative to the mean row.")
    every: int | Literal["auto"] = Field("auto", description="Steps between refreshes of the cached gradients.")
    max_ratio: float | None = Field(1.0, gt=0, description="Cap on the guidance gradient relative to the task's.")
    until: float | None = Field(None, gt=0, le=1, description="Stop guiding after this fraction of the run.")
    placebo: bool = Field(False, description="Guide a meaningless twin of the same size instead, for comparison.")

    @field_validator("every")
    @classmethod
    def _positive(cls, every: int | str) -> int | str:
        if isinstance(every, int) and every < 1:
            raise ValueError("must be at least 1, or auto")
        return every

    @field_validator("layers", mode="before")
    @classmethod
    def _known_choice(cls, layers: object) -> object:
        allowed = layers_problem(layers)
        if allowed is not None:
            raise ValueError(f"must be {allowed}")
        return layers


class TrainingConfig(Section):
    """How one trial trains."""

    max_epochs: int = Field(10, ge=1, description="Epochs of a trial that is not pruned.")
    batch_size: int = Field(128, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0, description="Learning rate.")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="cosine decays to 0 over the run.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    weight_decay: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the training loss; val_loss is always without.")
    grad_clip: float | None = Field(None, gt=0, description="Largest norm of the task gradient.")
    init: Literal["default", "he", "orthogonal", "lsuv"] = Field(
        "default",
        description="Initialisation of the weights; lsuv: orthogonal, then each layer's output has variance 1.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPUs that can.")
    seed: int = Field(0, ge=0, description="Initial weights and batch order; the same for all trials of a study.")


class FinalistsConfig(Section):
    """After the search: the best configurations on fresh seeds, beside their controls."""

    top: int = Field(3, ge=0, description="How many configurations; 0 turns the stage off.")
    seeds: int = Field(3, ge=1, description="Fresh seeds for each of them.")
    tuned: int = Field(8, ge=0, description="Trials that tune the unguided control's initialisation and lr.")


class SearchConfig(Section):
    """The budget and who decides how it is spent."""

    trials: int = Field(50, ge=1, description="Trials in total, design trials and failed ones included.")
    design: int = Field(0, ge=0, description="Of these, uniform (Sobol') trials, never pruned; they come first.")
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "median"
    hours: float | None = Field(None, gt=0, description="Start no new trial after this many hours of a run.")
    target: float | None = Field(None, description="Start no new trial once a trial's objective has reached this.")
    design_controls: bool = Field(
        False, description="Also train each design trial's unguided control: for sensitivity --against-control."
    )
    max_failures: int = Field(0, ge=0, description="Errors of a trial's own code after which it is tried again.")
    finalists: FinalistsConfig = FinalistsConfig()

    @field_validator("design")  # of the field, so that it is said beside what is wrong with other ones
    @classmethod
    def _within_trials(cls, design: int, info: ValidationInfo) -> int:
        if design > (trials := info.data.get("trials", design)):
            raise ValueError(f"design ({design}) must not exceed trials ({trials})")
        return design

    @property
    def afterwards(self) -> int:
        """Finalists, controls and tuning trials that follow the search, at most."""
        top, seeds, tuned = self.finalists.top, self.finalists.seeds, self.finalists.tuned
        tuning = tuned + seeds if top and tuned else 0
        return 2 * top * seeds + tuning + (self.design if self.design_controls else 0)


class Resources(Section):
    """What one trial occupies."""

    cpus: float = Field(1, gt=0, description="CPU cores; also the trial's threads, at least one.")
    gpus: float | Literal["auto"] = Field(
        "auto", description="GPUs; a fraction shares one, and its memory; auto: one where there are any."
    )
    memory: float | None = Field(
        None, gt=0, description="GiB of main memory: a trial goes where so much is not promised to others."
    )
    accelerator_type: str | None = Field(
        None, min_length=1, description="Trials go to nodes with this accelerator alone, by Ray's name: A10G, L4, ..."
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Trials at once; default: as many as fit, also of nodes that join."
    )
    retry_oom: bool = Field(
        False,
        description="A trial that was out of memory goes on once more when no other runs, on a whole GPU where it had "
        "a share of one.",
    )

    def retries(self, memory: str) -> bool:
        """Whether a trial that ran out of memory is tried alone: not where it had all of its GPU already."""
        shared = memory != "GPU" or (self.gpus != "auto" and self.gpus < 1)
        return self.retry_oom and shared

    def room(self, cpus: float, gpus: float, gpus_per_trial: float, memory: float = math.inf) -> int:
        """Trials that a machine has room for.

        Args:
            memory: GiB of the machine; without it, as much as is asked for.
        """
        by_gpus = _fit(gpus, gpus_per_trial) if gpus_per_trial else sys.maxsize
        by_memory = int(memory / self.memory + 1e-9) if self.memory and memory < math.inf else sys.maxsize
        return min(_fit(cpus, self.cpus), by_gpus, by_memory)

    @field_validator("gpus")
    @classmethod
    def _whole_or_fraction(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float) and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError("must be 0, a fraction below 1, a whole number, or auto")
        return gpus

    @property
    def threads(self) -> int:
        """Threads of one trial: part of its identity, since sums depend on it in the last bits."""
        return max(1, int(self.cpus))


def _fit(there: float, asked: float) -> int:
    """How often a demand fits; a share of a GPU cannot be put together from several of them."""
    each = int(1 / asked + 1e-9) * int(there) if asked < 1 else 0
    return each or int(there / asked + 1e-9)
