"""The training loop: `fit`, a generator of epochs; its caller reports, checkpoints and stops."""

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config.sections import Objective
from ..config.trial_config import TrialConfig
from ..data.batches import WHOLE, DataPart, Share, batches
from ..data.datasets import DatasetInfo
from ..losses import EntropyGuidance
from ..losses.task import Task
from .distributed import Ranks
from .meter import Meter
from .reports import EpochMetrics

EVALUATED = 512 * 3 * 32 * 32  # most numbers in a batch that is evaluated


class Diverged(Exception):  # noqa: N818 (an outcome, not an error)
    """The loss, or the objective of a function of the user's own, is no longer a finite number."""

    def __init__(self, epoch: int, what: str = "the loss"):
        self.epoch = epoch
        super().__init__(f"{what} is not finite in epoch {epoch}")


@dataclass
class TrainingState:
    """A training run between two epochs: what `fit` advances and a checkpoint holds."""

    config: TrialConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    guidance: EntropyGuidance
    task: Task
    info: DatasetInfo
    train: DataPart
    val: DataPart
    device: torch.device
    test: DataPart | None = None
    history: list[EpochMetrics] = field(default_factory=list)
    constants: dict[str, float] = field(default_factory=dict)  # metrics of the best constant output on ``val``
    ranks: Ranks | None = None  # the processes that train it together; None: this one alone
    ended = False  # before the last epoch; the built-in loop never does
    saves_every_epoch = False

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return self.history[-1].epoch if self.history else 0

    @property
    def share(self) -> Share:
        """This process's part of each batch."""
        return WHOLE if self.ranks is None else (self.ranks.rank, self.ranks.size)

    def fit(self) -> Generator[EpochMetrics]:
        """Trains, see `fit`."""
        return fit(self)

    def state_dicts(self) -> dict[str, Any]:
        """Returns what a checkpoint holds beside the history."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def diverged(self, epoch: int) -> Diverged:
        """Returns the error of a run that was lost in an epoch."""
        return Diverged(epoch)


def fit(run: TrainingState) -> Generator[EpochMetrics]:
    """Trains epoch by epoch, from the epoch that ``run`` has finished to the last one.

    Every epoch is seeded by (seed, epoch), so that a run resumed after any epoch is bit for bit the uninterrupted one.
    With ranks, all of them call it: the others begin an epoch when rank 0 does, and yield the same metrics.

    Raises:
        Diverged: The training or validation loss of an epoch is not finite.
    """
    objective = run.config.objective
    for epoch in range(run.epoch + 1, run.config.training.max_epochs + 1):
        if run.ranks is not None:
            run.ranks.agree()
        started = time.perf_counter()
        values = train_epoch(run, epoch)
        values["seconds"] = time.perf_counter() - started
        values |= evaluate(run, run.val, "val") | run.guidance.metrics()
        if run.test is not None:
            values |= evaluate(run, run.test, "test")
        if run.ranks is not None:
            run.ranks.agree()  # none of them died, which would leave no numbers on GPUs
        if not math.isfinite(values["train_loss"] + values["val_loss"]):
            raise Diverged(epoch)
        run.history.append(finished_epoch(objective, run.history, epoch, values))
        yield run.history[-1]


def finished_epoch(
    objective: Objective, history: Sequence[EpochMetrics], epoch: int, values: Mapping[str, float]
) -> EpochMetrics:
    """Returns an epoch that has just ended, with ``epochs_to_target`` if it is the first at the objective's target."""
    before = any("epochs_to_target" in metrics.values for metrics in history)
    reached = objective.reached(values[objective.metric]) and not before
    return EpochMetrics(epoch, {**values, **({"epochs_to_target": epoch} if reached else {})}, int(time.time() * 1000))


def train_epoch(run: TrainingState, epoch: int) -> dict[str, float]:
    """Takes the optimizer steps of one epoch and returns the task's metrics in it, named ``train_loss`` and so on."""
    training, model, optimizer, guidance = run.config.training, run.model, run.optimizer, run.guidance
    network = model if run.ranks is None else run.ranks.network
    steps = math.ceil(run.train.size / training.batch_size)
    generator = _seed(training.seed, epoch, run.share[0], run.device)
    meter = Meter(run.task, run.ranks)
    too_few = 2 * run.share[1] if has_batch_norm(model) else 0
    guidance.start_epoch()
    model.train()
    data = input_batches(
        run.config, run.info, run.task, run.train, device=run.device, generator=generator, share=run.share
    )
    for step, (x, y) in enumerate(data):
        if (
            min(training.batch_size, run.train.size - step * training.batch_size) < too_few
        ):  # the rest of an epoch; other images each time
            continue
        progress = (epoch - 1 + step / steps) / training.max_epochs
        if training.lr_schedule == "cosine":
            for group in optimizer.param_groups:
                group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.zero_grad()
        with _autocast(run):
            output = network(x)
            loss = _loss(run, output, x, y, training.label_smoothing)
        scaled = loss if run.ranks is None else run.ranks.scale(loss, run.task.weight(y))
        scaled.backward()  # type: ignore[no-untyped-call]
        if training.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        guidance.add_gradients(progress)
        optimizer.step()
        meter.update(loss, output, y, x)
    return meter.compute("train")


def evaluate(run: TrainingState, part: DataPart, prefix: str) -> dict[str, float]:
    """Returns the task's metrics on a part of the data, named ``prefix_loss`` and so on, without training."""
    run.model.eval()
    if run.ranks is not None:
        run.ranks.share_buffers(run.model)
    meter = Meter(run.task, run.ranks)
    with torch.inference_mode(), _autocast(run):
        for x, y in input_batches(run.config, run.info, run.task, part, device=run.device, share=run.share):
            output = run.model(x)
            meter.update(_loss(run, output, x, y, 0.0), output, y, x)
    return meter.compute(prefix)


def _loss(run: TrainingState, output: Tensor, x: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Returns the task's mean loss [] over the images; 0 without images, as of a rank in an epoch's last batch."""
    return run.task.loss(output, x, y, smoothing) if len(y) else output.sum() * 0.0


def has_batch_norm(model: nn.Module) -> bool:
    """Returns True if training takes statistics over a batch, which a single image does not have."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def input_batches(
    config: TrialConfig,
    info: DatasetInfo,
    task: Task,
    part: DataPart,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    share: Share = WHOLE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images [B, C, H, W] and labels or masks as the model takes them; a generator shuffles and augments."""
    size = config.training.batch_size
    if generator is None:  # evaluation keeps no activations: larger batches, in bounded memory
        size = max(size, min(512, EVALUATED // math.prod(info.in_shape)))
    return batches(
        part,
        batch_size=size,
        device=device,
        shuffle=generator,
        scale=info.scale,
        augment=() if generator is None else config.data.augment,
        normalize=moments(info, task),
        share=share,
    )


def moments(info: DatasetInfo, task: Task) -> tuple[Sequence[float], Sequence[float]] | None:
    """Returns the mean and standard deviation of each channel if the task normalises its images, else None."""
    return (info.mean, info.std) if task.normalizes else None


def _seed(seed: int, epoch: int, rank: int, device: torch.device) -> torch.Generator:
    """Seeds the global generators (dropout; other numbers on each rank) and returns a CPU generator for one epoch.

    Order and augmentation are drawn from the latter, which is the same on all ranks.
    """
    value = seed * 1_000_003 + epoch
    own = value + rank * 1_000_000_007
    torch.default_generator.manual_seed(own)  # torch.manual_seed() takes a millisecond for GPUs that are not there
    if device.type == "cuda":
        torch.cuda.manual_seed_all(own)
    return torch.Generator().manual_seed(value)


def _autocast(run: TrainingState) -> contextlib.AbstractContextManager[object]:
    """Returns autocast to bfloat16 if the study or ``precision: auto`` on this GPU asks for it."""
    precision, on_gpu = run.config.training.precision, run.device.type == "cuda"
    if precision == "bfloat16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()):
        return torch.autocast(run.device.type, torch.bfloat16)
    return contextlib.nullcontext()
