"""The trial as a training function of the user's own sees it: `TrialContext`, the function's one argument."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.errors import FunctionError, nearest
from ..config.trial_config import TrialConfig
from ..losses import EntropyGuidance
from .attempt_files import AttemptFiles
from .distributed import Ranks
from .user_state import has_state, seed_all, set_random_states, set_state

Metrics = Mapping[str, Any]


class TrialContext:
    """One trial: its hyperparameters, seed and folder, and the ways to save, report and log. `sweep` makes it.

    Attributes:
        seed: Seed of the trial: the study's, or a fresh one of a finalist or a pair. The generators of Python, NumPy
            and torch have been seeded with it when the function begins.
        max_epochs: Epochs after which the trial ends.
        epoch: The last epoch that has been reported, here or before an interruption; 0 in a new trial.
        is_confirming: True in a pair of `sweep confirm`: the function then also reports the objective on the test set,
            ``test_loss`` beside ``val_loss``.
        required: The metrics that every report has: the objective, and in such a pair its test metric.
        rank: The number of this process among those that train the trial; 0 reports, saves and logs for all of them.
        world_size: How many they are: ``resources.workers``, or one for each of its GPUs.
        device: The device of this process: its GPU if the trial has any, else the CPU.

    Example:
        >>> def train(trial):
        ...     model = nn.Linear(8, trial["width"])
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"])
        ...     guidance = trial.guidance(model, batch_size=64)
        ...     for epoch in trial.epochs(model=model, optimizer=optimizer):
        ...         ...  # guidance.add_gradients() between backward() and step()
        ...         yield {"val_loss": 1 / epoch}
    """

    def __init__(
        self,
        config: TrialConfig,
        files: AttemptFiles,
        *,
        epoch: int,
        state: Mapping[str, Any],
        report: Callable[[Metrics], None],
        device: torch.device,
        ranks: Ranks | None,
    ):
        self.seed, self.max_epochs = config.training.seed, config.training.max_epochs
        self.epoch, self.is_confirming = epoch, config.test
        self.device, self._ranks = device, ranks
        self.rank, self.world_size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
        self._is_distributed = ranks is None  # the function has divided the trial among its processes
        self._files, self._uses_folder = files, False
        self.required = config.required
        self._config, self._saved, self._report = config, state, report
        self._states: dict[str, Any] = {}  # what the function gave `epochs`
        self._guidance: list[EntropyGuidance] = []
        self._logged: dict[str, Any] = {}
        self._current: int | None = None  # the epoch of the loop over `epochs`

    def __getitem__(self, name: str) -> Any:
        """Returns the value of a hyperparameter; raises a FunctionError that names those that there are."""
        if name not in (known := self.hyperparameters):
            own = ", ".join(each for each in known if not each.startswith("guidance."))
            raise FunctionError(
                f"trial[{name!r}]: the study has no such hyperparameter{nearest(name, [*known])}; {own}"
            )
        return known[name]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All hyperparameters by name, constants of the space and those of guidance included."""
        return dict(self._config.offered)

    @property
    def folder(self) -> Path:
        """A folder for checkpoints of the function's own. What an interrupted attempt left is in it.

        Such a function reports an epoch before it saves it, and gives `report` the number of each as ``epoch``.
        """
        self._uses_folder = True
        return self._files.own

    def distributed(self, model: nn.Module, **options: Any) -> nn.Module:
        """Returns a model in torch's `DistributedDataParallel`; in a trial of one process the model as it is.

        It gives the model rank 0's weights, and its gradients the mean over all ranks. The process group is there.

        Args:
            model: A network on `device`.
            options: Further ones of `DistributedDataParallel`, such as ``find_unused_parameters=True``.
        """
        self._is_distributed = True
        return model if self._ranks is None else self._ranks.parallel(model, **options)

    def shard(self, batch: Tensor) -> Tensor:
        """Returns the rows of a batch, or of its indices, that are this process's; as many on each.

        Where the rows cannot be divided evenly the first ones are taken twice, as `DistributedSampler` does, which is
        the way for a `DataLoader`: ``DistributedSampler(dataset, trial.world_size, trial.rank)``.
        """
        if self.world_size == 1:
            return batch
        share = -(-len(batch) // self.world_size)
        return batch[torch.arange(self.rank * share, (self.rank + 1) * share) % len(batch)]

    def guidance(self, model: nn.Module, *, batch_size: int | None = None) -> EntropyGuidance:
        """Returns the study's guidance of a model with the trial's lambdas, which are 0 in a control.

        Its ``add_gradients()`` belongs between ``backward()`` and ``optimizer.step()``. The metrics of each epoch are
        reported with the function's own.

        Args:
            model: A network with dense or convolutional layers.
            batch_size: Samples of an optimizer step, from which ``guidance.every: auto`` is derived.

        Raises:
            ValueError: A lambda is not 0, and the model has no layer that can be guided.
        """
        options = {**self._config.guidance.model_dump(), **({} if batch_size is None else {"batch_size": batch_size})}
        guidance = _TrialGuidance(_bare(model), self, options)
        if self._ranks is not None:
            guidance.distribute(self._ranks.group)
        self._guidance.append(guidance)
        return guidance

    def epochs(self, **state: Any) -> Iterator[int]:
        """Yields the numbers of the epochs that are left, from 1 in a new trial, to ``max_epochs``.

        Each epoch ends with its report, which is the last statement of the loop: a resumed trial goes on behind it.

        Args:
            state: What a resumed trial needs, by names of your own: anything with ``state_dict`` and
                ``load_state_dict`` (a model, an optimizer, a scheduler, ...), a generator of torch or NumPy, or a dict
                of tensors, numbers and texts. It is saved with the random states of torch, NumPy and Python, and
                restored before the first epoch. Without any, a resumed trial starts again. Of several processes all
                get what rank 0 has saved, and begin each epoch with the random states of rank 0.

        Raises:
            FunctionError: An object whose state cannot be read.
        """
        for name, each in state.items():
            if not has_state(each):
                kind = f"{type(each).__module__}.{type(each).__qualname__}"
                raise FunctionError(
                    f"epochs({name}=...): a {kind} has no state to save: give an object with state_dict and "
                    "load_state_dict, or a dict of tensors, numbers and texts"
                )
        self._is_distributed |= any(isinstance(each, DistributedDataParallel) for each in state.values())
        self._states = {name: _bare(each) for name, each in state.items()}
        return self._epochs()

    def _epochs(self) -> Iterator[int]:
        saved = self._saved.get("states", {})
        if saved and set(saved) != set(self._states):
            raise FunctionError(
                f"epochs() is given {', '.join(self._states) or 'nothing'}, but the checkpoint of this trial holds "
                f"{', '.join(saved)}: the code has changed since; go on with the code that it began with"
            )
        for name, value in saved.items():
            set_state(self._states[name], value)
        if saved:
            set_random_states(self._saved["random"])
        for epoch in range((self.epoch if saved else 0) + 1, self.max_epochs + 1):
            self._current = epoch
            for guidance in self._guidance:
                guidance.start_epoch()
            yield epoch

    def report(self, metrics: Metrics | None = None, /, **values: Any) -> None:
        """Reports an epoch: its metrics by name, numbers, among them the study's objective.

        For functions that do not yield them, such as callbacks of other libraries. A loop that has its own checkpoints
        gives the number of the epoch, from 1, as ``epoch``.

        Raises:
            TrialStopped: The trial ends here. It is no Exception: let it pass.
            FunctionError: Something else than numbers, no objective, or an epoch that was reported before.
        """
        self._report({**(metrics or {}), **values})

    def log(self, metrics: Metrics | None = None, /, **values: Any) -> None:
        """Adds metrics, numbers by name, to the next report."""
        self._logged |= {**(metrics or {}), **values}

    def log_artifact(self, path: str | os.PathLike[str]) -> None:
        """Keeps a copy of a file or folder of rank 0, which MLflow gets at the trial's end.

        Raises:
            OSError: It does not exist, or cannot be copied.
        """
        if self.rank:
            return
        source = Path(path)
        target = self._files.artifacts / source.resolve().name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def seed_everything(self) -> None:
        """Seeds the generators of Python, NumPy and torch with the trial's seed, as before the function began."""
        seed_all(self.seed)


def _bare(value: Any) -> Any:
    """Returns the model in a `DistributedDataParallel`, and anything else as it is."""
    return value.module if isinstance(value, DistributedDataParallel) else value


class _TrialGuidance(EntropyGuidance):
    """Guidance that knows the progress of its trial."""

    def __init__(self, model: nn.Module, trial: TrialContext, options: Mapping[str, Any]):
        super().__init__(model, **options)
        self._trial = trial

    def add_gradients(self, progress: float | None = None) -> None:
        """Adds the guidance gradients; the progress is that of the trial's epochs unless it is given."""
        done = self._trial._current - 1 if self._trial._current else self._trial.epoch
        super().add_gradients(done / self._trial.max_epochs if progress is None else progress)
