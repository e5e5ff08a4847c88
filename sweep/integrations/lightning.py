"""A trial that Lightning trains."""

from pathlib import Path
from typing import Any

import lightning

from ..losses import EntropyGuidance
from ..training.trial_context import TrialContext
from ..training.user_state import seed_epoch


class SweepCallback(lightning.Callback):
    """Guides, reports, saves, resumes and stops a trial, for a ``lightning.Trainer`` with ``trial.max_epochs`` epochs.

    It reports what the module has logged by the end of each training epoch, the objective among it. Each epoch is
    seeded by the trial's seed and its number, so that a resumed trial has the numbers of an uninterrupted one.

    Args:
        trial: The trial.
        batch_size: Samples of an optimizer step, see `TrialContext.guidance`.

    Attributes:
        checkpoint: The file to resume from, for ``trainer.fit(..., ckpt_path=callback.checkpoint)``; None in a new
            trial.
    """

    def __init__(self, trial: TrialContext, *, batch_size: int | None = None):
        self._trial, self._batch_size = trial, batch_size
        self._file = trial.folder / "last.ckpt"
        self._guidance: EntropyGuidance | None = None
        self._epochs = 0  # that have ended
        self.checkpoint: Path | None = self._file if self._file.is_file() else None

    def on_fit_start(self, _trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Makes the guidance of the module."""
        self._guidance = self._trial.guidance(pl_module, batch_size=self._batch_size)
        seed_epoch(self._trial.seed, self._epochs)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Begins an epoch of the guidance."""
        assert self._guidance is not None
        self._guidance.start_epoch()

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Adds the guidance gradients."""
        assert self._guidance is not None
        self._guidance.add_gradients()

    def on_train_epoch_end(self, trainer: lightning.Trainer, _pl_module: lightning.LightningModule) -> None:
        """Reports the epoch, then saves it."""
        self._epochs = trainer.current_epoch + 1
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self._trial.report(values, epoch=self._epochs)
        beside = self._file.with_suffix(".tmp")
        trainer.save_checkpoint(beside)
        beside.replace(self._file)
        seed_epoch(self._trial.seed, self._epochs)

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of epochs that have ended."""
        return {"epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._epochs = state_dict["epochs"]
