"""A trial that the Trainer of Hugging Face's transformers trains."""

from typing import Any

from transformers import TrainerCallback

from ..losses import EntropyGuidance
from ..training.trial_context import TrialContext
from ..training.user_state import seed_epoch

WHOLE = "whole"  # file of a checkpoint that was written to its end


class SweepCallback(TrainerCallback):
    """Guides, reports, resumes and stops a trial, for a ``transformers.Trainer``.

    It reports the metrics of each evaluation, ``eval_loss`` and what ``compute_metrics`` returns. Of several sets,
    ``eval_dataset={"val": ..., "test": ...}``, they are called ``val_loss``, ``test_loss`` and so on.

    Args:
        trial: The trial.
        batch_size: Samples of an optimizer step, see `TrialContext.guidance`.

    Attributes:
        arguments: Keywords for ``transformers.TrainingArguments``: an evaluation and a checkpoint each epoch, in the
            trial's folder, with its seed.
        checkpoint: The folder to resume from, for ``trainer.train(resume_from_checkpoint=callback.checkpoint)``; None
            in a new trial.
    """

    def __init__(self, trial: TrialContext, *, batch_size: int | None = None):
        self._trial, self._batch_size = trial, batch_size
        self._guidance: EntropyGuidance | None = None
        self._metrics: dict[str, float] = {}  # of the sets that have been evaluated in this epoch
        whole = sorted(trial.folder.glob(f"checkpoint-*/{WHOLE}"), key=lambda file: int(file.parent.name[11:]))
        self.checkpoint: str | None = str(whole[-1].parent) if whole else None
        self.arguments: dict[str, Any] = {
            "output_dir": str(trial.folder),
            "num_train_epochs": trial.max_epochs,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "save_total_limit": 2,
            "seed": trial.seed,
            "report_to": "none",
        }

    def on_train_begin(self, *_: Any, **found: Any) -> None:
        """Makes the guidance of the model."""
        self._guidance = self._trial.guidance(found["model"], batch_size=self._batch_size)

    def on_epoch_begin(self, *_: Any, **_others: Any) -> None:
        """Begins an epoch of the guidance."""
        assert self._guidance is not None
        self._guidance.start_epoch()

    def on_pre_optimizer_step(self, *_: Any, **_others: Any) -> None:
        """Adds the guidance gradients."""
        assert self._guidance is not None
        self._guidance.add_gradients()

    def on_evaluate(self, *event: Any, **found: Any) -> None:
        """Reports the epoch when all sets have been evaluated; the Trainer then saves it."""
        for name, value in found["metrics"].items():
            if not name.endswith(("_runtime", "_per_second", "epoch")):
                of_set = name.removeprefix("eval_")
                self._metrics[of_set if of_set.startswith(("val_", "test_")) else name] = value
        if all(name in self._metrics for name in self._trial.required):
            values, self._metrics = self._metrics, {}
            epoch = round(event[1].epoch)
            self._trial.report(values, epoch=epoch)
            seed_epoch(self._trial.seed, epoch)  # whatever sets were evaluated, the next one begins alike

    def on_save(self, *event: Any, **_others: Any) -> None:
        """Marks a checkpoint as whole."""
        (self._trial.folder / f"checkpoint-{event[1].global_step}" / WHOLE).touch()
