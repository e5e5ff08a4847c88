"""The validated sections of a study file: model, data, task, objective, guidance, training and search."""

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, ValidationInfo, create_model, field_validator

from ..losses.options import RULES, GuidanceOptions
from .search_methods import PrunerName, SamplerName
from .section import Section

ImportPath = Annotated[str, Field(pattern=":")]  # of a function of the user's own, see `sweep.study.user_search`
DEEPEST, WIDEST, MOST_TRIALS = 512, 10_000_000, 100_000


class ModelConfig(Section):
    """The architecture family; further keys are options of that family (`latent` of `autoencoder`, ...)."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str = Field(
        description="Architecture: mlp, autoencoder, cnn, conv_autoencoder, resnet, unet; or your package.module:Class."
    )
    depth: int | None = Field(
        None, ge=1, le=DEEPEST, description="Depth, if it is not searched (see the model's docstring)."
    )
    width: int | None = Field(
        None, ge=1, le=WIDEST, description="Width, if it is not searched (see the model's docstring)."
    )


class DataConfig(Section):
    """The data set and how much of it is used."""

    name: str = Field(
        description="digits, mnist, fashion_mnist, cifar10, cifar100, imagefolder or voc; or package.module:name."
    )
    folder: str | None = Field(None, description="Folder of imagefolder or voc: absolute, or below the data root.")
    image_size: int | tuple[int, int] | None = Field(
        None, description="Image size of imagefolder or voc in pixels, for both sides or as [height, width]."
    )
    num_classes: int | None = Field(None, ge=1, le=255, description="Classes of voc: labels are 0 to num_classes - 1.")
    ignore_index: int | None = Field(None, ge=0, le=255, description="Label of voc that is ignored, as 255 is.")
    year: int | None = Field(None, description="Year of voc: the folder is VOCdevkit/VOC<year>; default: 2012.")
    train_size: int | None = Field(None, ge=1, description="Train on a class-balanced subset of this many images.")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the training part held out for validation.")
    val_seed: Literal["fixed", "trial"] = Field(
        "fixed", description="The images held out: the same for all trials, or others for each training.seed."
    )
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
        """Height and width of ``image_size``; (0, 0) if it is not given."""
        sides = self.image_size or 0
        return (sides, sides) if isinstance(sides, int) else sides


IMPORT_PATH = "Your own function, package.module:name, searched for in the current folder and beside the study file"


class TaskConfig(Section):
    """The task of a model that does not define it, and your own loss and metrics."""

    kind: Literal["classification", "segmentation", "reconstruction"] | None = Field(
        None, description="Task of your own model if it has no attribute `task`; default: classification."
    )
    loss: str | None = Field(None, description=f"{IMPORT_PATH}: (output, target) -> batch mean. Default: the task's.")
    metrics: dict[str, str] = Field(
        {},
        description=f"By name; {{f1: ...}} gives val_f1. {IMPORT_PATH}: a torchmetrics.Metric (class or instance), "
        "accumulated over the epoch; or a function (outputs, targets) -> a number, averaged over the images.",
    )

    @field_validator("metrics")
    @classmethod
    def _plain_names(cls, metrics: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in metrics if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: names are letters, digits and '_', a letter first")
        return metrics


METRIC = re.compile(r"[A-Za-z0-9_][\w./ -]*", re.ASCII)  # the names that MLflow takes
SHARES = ("val_accuracy", "val_iou")  # metrics whose best value is 1


class Objective(Section):
    """The number the search optimises: a validation metric of the task, never the guided loss."""

    metric: str = Field(
        description="val_loss, val_accuracy (classification), val_iou (segmentation), val_psnr (reconstruction), or "
        "val_<name> of your own metric. With a function: any that it reports."
    )
    direction: Literal["minimize", "maximize"] = Field(description="minimize: less is better.")
    at: Literal["last", "best"] = Field("last", description="The metric's value at the last epoch, or its best one.")
    target: float | None = Field(None, description="Target value of the metric: logs epochs_to_target.")
    constant: float | None = Field(
        None,
        description="Value of the metric for a constant output: a trial that ends no better has collapsed. Default: "
        "measured on the validation images; unknown for a metric or loss of your own.",
    )

    @field_validator("constant")
    @classmethod
    def _of_a_share(cls, constant: float | None, info: ValidationInfo) -> float | None:
        metric = info.data.get("metric")
        if constant is not None and metric in SHARES and not 0 <= constant < 1:
            raise ValueError(f"must be at least 0 and below 1 for {metric}")
        return constant

    def better(self, a: float, b: float) -> bool:
        """Returns True if ``a`` is strictly better than ``b``."""
        return a < b if self.direction == "minimize" else a > b

    def reached(self, value: float) -> bool:
        """Returns True if ``value`` is a finite number at the target or better."""
        return self.target is not None and math.isfinite(value) and not self.better(self.target, value)


class _GuidanceSection(Section):
    """The values that options of guidance may have, where the type of a field does not say it."""

    @field_validator("*")
    @classmethod
    def _allowed(cls, value: object, info: ValidationInfo) -> object:
        rule = RULES[str(info.field_name)]
        if not rule.holds(value):
            raise ValueError(f"must be {rule.allowed}")
        return value

    @field_validator("layers", mode="before", check_fields=False)
    @classmethod
    def _layers(cls, layers: object, info: ValidationInfo) -> object:
        """Refuses other values with one sentence, in place of one for each type that a field may have."""
        return cls._allowed(tuple(layers) if isinstance(layers, list) else layers, info)


if TYPE_CHECKING:

    class GuidanceConfig(_GuidanceSection, GuidanceOptions):
        """Entropy guidance; the fields are those of `losses.options.GuidanceOptions`, made below."""

else:
    GuidanceConfig = create_model(
        "GuidanceConfig",
        __base__=_GuidanceSection,
        __module__=__name__,
        __doc__="Entropy guidance; the fields are the options of `losses.EntropyGuidance`.",
        **{
            each.name: (each.type, Field(each.default, description=each.metadata["doc"], **RULES[each.name].bounds))
            for each in dataclasses.fields(GuidanceOptions)
        },
    )


class TrainingConfig(Section):
    """The training of one trial."""

    max_epochs: int = Field(10, ge=1, le=1_000_000, description="Epochs of a trial that is not pruned.")
    batch_size: int = Field(128, ge=1, le=1_000_000, description="Images of one training step.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="PyTorch's; sgd is with momentum.")
    lr: float = Field(1e-3, gt=0, description="Learning rate.")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="cosine decays to 0 over the run.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Pulls weights towards 0: L2, with adamw decoupled.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Applied to the training loss, never to val_loss.")
    grad_clip: float | None = Field(None, gt=0, description="Largest norm of the task gradient.")
    init: Literal["default", "he", "orthogonal", "lsuv"] = Field(
        "default", description="Initial weights; lsuv: orthogonal, then each layer's output has variance 1."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where GPUs have it.")
    seed: int = Field(
        0, ge=0, lt=2**32, description="Initial weights and batch order; the same for all trials of a study."
    )


class FinalistsConfig(Section):
    """The stage after the search: the best configurations and their controls, trained on fresh seeds."""

    top: int = Field(3, ge=0, le=1000, description="Number of configurations; 0 turns the stage off.")
    seeds: int = Field(3, ge=1, le=1000, description="Fresh seeds for each configuration.")
    tuned: int = Field(
        8,
        ge=0,
        le=1000,
        description="Trials that tune the unguided control's initialisation and lr; one is plain.",
    )


class UntilConfig(Section):
    """A search that ends once a surrogate of its design expects little of the next trial."""

    improvement_below: float = Field(gt=0, description="Largest expected improvement, in units of the objective.")


class SearchConfig(Section):
    """The budget, the sampler and the pruner."""

    trials: int = Field(
        50, ge=1, le=MOST_TRIALS, description="Trials in total, design trials and failed ones included."
    )
    design: int = Field(0, ge=0, le=MOST_TRIALS, description="Of these, uniform trials, never pruned; they come first.")
    design_seeds: int = Field(
        1,
        ge=1,
        le=1000,
        description="Seeds of every third design point; 2 or more tell noise from what sensitivity cannot see.",
    )
    seeds: int = Field(
        1,
        ge=1,
        le=100,
        description="Seeds of a configuration: one that may be the best is trained on further ones, each a trial.",
    )
    sampler: SamplerName | ImportPath = Field("tpe", description="Chooses the hyperparameters of a trial. Or your own.")
    pruner: PrunerName | ImportPath = Field("median", description="Ends trials early that are worse. Or your own.")
    hours: float | None = Field(None, gt=0, description="Start no new trial after this many hours of a run.")
    target: float | None = Field(None, description="Start no new trial after the objective has reached this.")
    patience: int | None = Field(
        None,
        ge=1,
        le=MOST_TRIALS,
        description="Start no new trial after this many, beyond the design, without an improvement beyond noise.",
    )
    until: UntilConfig | None = Field(None, description="Start no new trial once improvement_below is reached.")
    duplicates: Literal["reuse", "resample", "train"] = Field(
        "reuse",
        description="For a trial with the hyperparameters, seed and code of another: reuse takes that one's curve, "
        "resample trains on another seed, train trains it again.",
    )
    design_controls: bool = Field(
        False, description="Train design trials' controls, for sensitivity --against-control."
    )
    max_failures: int = Field(0, ge=0, le=1000, description="Retries of a trial after errors of its own code.")
    finalists: FinalistsConfig = FinalistsConfig()

    @field_validator("design")  # on the field, so that its problem is listed beside those of other fields
    @classmethod
    def _within_trials(cls, design: int, info: ValidationInfo) -> int:
        if design > (trials := info.data.get("trials", design)):
            raise ValueError(f"design ({design}) must not exceed trials ({trials})")
        return design

    def afterwards(self, *, guided: bool) -> int:
        """Returns how many finalists, and if ``guided`` controls and tuning trials, follow the search at most.

        Rarely ``tuned`` more: if the best on fresh seeds differs from the best of the search in more than guidance.
        """
        top, seeds, tuned = self.finalists.top, self.finalists.seeds, self.finalists.tuned
        if not guided:
            return top * seeds
        tuning = tuned + seeds if top and tuned else 0
        return 2 * top * seeds + tuning + (self.design if self.design_controls else 0)
