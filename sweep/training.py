"""fit(): the whole training loop, a generator of EpochMetrics; its caller reports, checkpoints and stops."""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from losses import EntropyGuidance
from losses.task import Task

from .batches import Part, batches
from .config import TrialConfig
from .datasets import DatasetInfo
from .metrics import EpochMetrics
from .sections import TrainingConfig

EVALUATED = 512 * 3 * 32 * 32  # numbers of a batch that is evaluated
METER_BUFFER = 2**22  # numbers, 16 MB of float32; an epoch of 54,000 images and 10 classes fits


class Diverged(Exception):  # noqa: N818 (an outcome, not an error)
    """The loss is no longer a finite number."""

    def __init__(self, epoch: int):
        self.epoch = epoch
        super().__init__(f"the loss is not finite in epoch {epoch}")


@dataclass
class Run:
    """A training run between two epochs: what fit() advances and a checkpoint holds."""

    config: TrialConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    guidance: EntropyGuidance
    task: Task
    info: DatasetInfo
    train: Part
    val: Part
    device: torch.device
    test: Part | None = None
    history: list[EpochMetrics] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return self.history[-1].epoch if self.history else 0


def fit(run: Run) -> Iterator[EpochMetrics]:
    """Trains epoch by epoch, from where ``run`` stands to the end.

    Every epoch is seeded by (seed, epoch), so that a run resumed after any epoch is bit for bit the uninterrupted one.

    Raises:
        Diverged: the training or validation loss of an epoch is not finite.
    """
    training, model, optimizer = run.config.training, run.model, run.optimizer
    step_weights = _plain_step(optimizer)
    steps = math.ceil(run.train.size / training.batch_size)
    needs_two = has_batch_norm(model)
    for epoch in range(run.epoch + 1, training.max_epochs + 1):
        started = time.perf_counter()
        generator = _seed(training.seed, epoch, run.device)
        meter = Meter(run.task)
        run.guidance.start_epoch()
        model.train()
        for step, (x, y) in enumerate(_batches(run, run.train, generator)):
            if needs_two and len(y) == 1:  # the rest of an epoch; another image each time
                continue
            progress = (epoch - 1 + step / steps) / training.max_epochs
            _set_lr(optimizer, training, progress)
            optimizer.zero_grad()
            with _autocast(run):
                output = model(x)
                loss = run.task.loss(output, x, y, training.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            if training.grad_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
            run.guidance.add_gradients(progress)
            step_weights()
            meter.add(loss, output, y, x)
        values = {**meter.summary("train"), "seconds": time.perf_counter() - started}
        values |= evaluate(run, run.val, "val") | run.guidance.metrics()
        if run.test is not None:
            values |= evaluate(run, run.test, "test")
        objective = run.config.objective
        losses = values["train_loss"] + values["val_loss"]
        if not math.isfinite(losses) or math.isnan(values[objective.metric]):
            raise Diverged(epoch)
        if objective.reached(values[objective.metric]) and not _reached(run):
            values["epochs_to_target"] = epoch
        run.history.append(EpochMetrics(epoch, values, int(time.time() * 1000)))
        yield run.history[-1]


def evaluate(run: Run, part: Part, prefix: str) -> dict[str, float]:
    """Returns the task's metrics on a part of the data, named ``prefix_loss`` and so on."""
    run.model.eval()
    meter = Meter(run.task)
    with torch.inference_mode(), _autocast(run):
        for x, y in _batches(run, part):
            output = run.model(x)
            meter.add(run.task.loss(output, x, y, 0.0), output, y, x)
    return meter.summary(prefix)


class Meter:
    """Adds up an epoch's losses and what its metric counts, in memory that does not grow with the epoch.

    Outputs are kept until they fill a buffer and counted together: most epochs are counted, and the device read, once.
    Metrics of the user's own, which do not add up, are taken of each buffer; their mean over the images is reported.
    """

    def __init__(self, task: Task):
        self._task = task
        self._losses: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._kept = 0
        self._counts: Tensor | int = 0
        self._own = dict.fromkeys(task.own, 0.0)
        self._images = 0

    def add(self, loss: Tensor, output: Tensor, labels: Tensor, images: Tensor | None = None) -> None:
        """Adds one batch: its mean loss, the model's output, the labels [B] or masks [B, H, W].

        Args:
            images: [B, C, H, W], which only metrics of the user's own may compare with.
        """
        self._losses.append(loss.detach())
        self._labels.append(labels)
        self._kept += labels.numel()
        if self._task.count is not None or self._own:
            self._outputs.append(output.detach())
            self._kept += output.numel()
        if self._own:
            self._targets.append(labels if images is None else self._task.target(images, labels))
            self._kept += self._targets[-1].numel()
        if self._kept > METER_BUFFER:
            self._fold()

    def summary(self, prefix: str) -> dict[str, float]:
        """Means over the images, or over what else the task counts."""
        self._fold()
        weights = torch.cat(self._weights)
        loss = torch.stack(self._losses).float() @ weights / weights.sum()
        values = [loss, self._task.read(torch.as_tensor(self._counts), loss).float()] if self._task.score else [loss]
        own = [total / self._images for total in self._own.values()]
        return {f"{prefix}_{n}": v for n, v in zip(self._task.metrics, torch.stack(values).tolist() + own, strict=True)}

    def _fold(self) -> None:
        """Counts what is in the buffer, and empties it."""
        if not self._labels:
            return
        weights = [float(self._task.weight(y)) for y in self._labels]
        self._weights.append(torch.tensor(weights, device=self._losses[0].device))
        outputs = torch.cat(self._outputs) if self._outputs else torch.empty(0)
        if self._task.count is not None:
            self._counts = self._counts + self._task.count(outputs, torch.cat(self._labels))
        if self._own:
            targets = torch.cat(self._targets)
            with torch.no_grad():
                for name, metric in self._task.own.items():
                    self._own[name] += float(metric(outputs, targets)) * len(targets)
            self._images += len(targets)
        self._outputs, self._labels, self._targets, self._kept = [], [], [], 0


def has_batch_norm(model: nn.Module) -> bool:
    """Whether training takes statistics over a batch, of which one image has none."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def build_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Returns the optimizer that ``training`` names."""
    _spare_compiler()
    parameters, lr, decay = model.parameters(), training.lr, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=training.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=decay, fused=True)


def _spare_compiler() -> None:
    """Lets optimizers be made without the compiler: marking them as not to be compiled takes 1.7 s of imports."""
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)


def _plain_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The optimizer's step without its decorators, which import the compiler."""
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))


def initialise(model: nn.Module, scheme: str, images: Tensor | None = None) -> None:
    """Initialises linear and convolutional weights: ``default`` (PyTorch's), ``he`` (normal), ``orthogonal``, ``lsuv``.

    All but the first set the biases to zero and leave other layers alone. Their gain is that of tanh in a model with
    one, 5/3, and else that of ReLU, the square root of 2, which the other activations come near.

    Args:
        images: training images as the model takes them; ``lsuv`` scales by what each layer makes of them.

    Raises:
        ValueError: ``lsuv`` without images.
    """
    if scheme == "default":
        return
    nonlinearity: Literal["tanh", "relu"] = "tanh" if any(isinstance(m, nn.Tanh) for m in model.modules()) else "relu"
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            if scheme == "he":
                nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)
            else:
                nn.init.orthogonal_(module.weight, gain=nn.init.calculate_gain(nonlinearity))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if scheme == "lsuv":
        if images is None:
            raise ValueError("lsuv needs images")
        _scale_to_unit_variance(model, images)


@torch.no_grad()
def _scale_to_unit_variance(model: nn.Module, x: Tensor) -> None:
    """Scales the weights of each linear and convolutional layer, in the order of their use, by its output's spread.

    Biases are 0 here, so that one division makes the variance 1. A layer whose output does not vary stays as it is; one
    that is used twice is scaled at both uses, so that the last counts. Batch norm passes all on, as it does untrained.

    Source: Mishkin and Matas, All you need is a good init, ICLR 2016.
    """

    def scale(module: nn.Linear, _inputs: object, output: Tensor) -> Tensor:
        spread = float(output.std())
        if not (math.isfinite(spread) and spread > 0):
            return output
        module.weight.div_(spread)
        return output / spread  # what the layers behind it will see

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    training = model.training
    model.eval()(x)
    model.train(training)
    for hook in hooks:
        hook.remove()


def input_batches(
    config: TrialConfig,
    info: DatasetInfo,
    task: Task,
    part: Part,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels as the model takes them; with a generator in training order: shuffled and augmented."""
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
        normalize=(info.mean, info.std) if task.normalizes else None,
    )


def _batches(run: Run, part: Part, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    return input_batches(run.config, run.info, run.task, part, device=run.device, generator=generator)


def _seed(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Seeds the global generators (dropout) and returns a CPU generator (order, augmentation) for one epoch."""
    value = seed * 1_000_003 + epoch
    torch.default_generator.manual_seed(value)  # torch.manual_seed() takes a millisecond for GPUs that are not there
    if device.type == "cuda":
        torch.cuda.manual_seed_all(value)
    return torch.Generator().manual_seed(value)


def _set_lr(optimizer: torch.optim.Optimizer, training: TrainingConfig, progress: float) -> None:
    if training.lr_schedule == "cosine":
        for group in optimizer.param_groups:
            group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _autocast(run: Run) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where it was asked for, or is the GPU's own choice; else nothing, which costs nothing."""
    precision, on_gpu = run.config.training.precision, run.device.type == "cuda"
    if precision == "bfloat16" or (precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()):
        return torch.autocast(run.device.type, torch.bfloat16)
    return contextlib.nullcontext()


def _reached(run: Run) -> bool:
    return any("epochs_to_target" in metrics.values for metrics in run.history)
