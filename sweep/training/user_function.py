"""Runs a training function of the user's own as a trial: `FunctionRun`, which `run_trial` advances epoch by epoch."""

import contextlib
import gc
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch

from ..config.errors import FunctionError, StopIgnoredError
from ..config.filesystem import AnyPath
from ..config.trial_config import TrialConfig
from ..config.user_code import import_object
from ..losses import GuidanceWarning
from .attempt_files import AttemptFiles, LogStream
from .checkpoint import Checkpoint
from .distributed import Ranks
from .function_calls import GeneratorCall, ThreadCall, yields
from .own_run import OwnRun
from .reports import EpochMetrics
from .trial_context import Metrics, TrialContext
from .user_state import random_states, random_text, require_saveable, set_random_text, state_of

STOP = "stop"  # rank 0's word to the others, in place of its random states


class FunctionRun(OwnRun):
    """A run of a function between two epochs."""

    def __init__(
        self,
        config: TrialConfig,
        attempt: AnyPath,
        saved: Checkpoint | None,
        warn: Callable[[str], object],
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(config, saved, warn)
        self._function, self._ranks = import_object(str(config.function)), ranks
        before = saved.path.parent if saved and (ranks is None or ranks.rank == 0) else None
        self._files = AttemptFiles(attempt, before)
        self._steps: GeneratorCall | ThreadCall
        state = saved.state if saved else {}
        self.trial = TrialContext(
            config, self._files, epoch=self.epoch, state=state, report=self._report, device=device, ranks=ranks
        )
        self._saveable = False  # the state that the function gives has been saved and read back once

    @property
    def saves_every_epoch(self) -> bool:
        """True if the function has checkpoints of its own, which must not be ahead of the history."""
        return self.trial._uses_folder

    def fit(self) -> Generator[EpochMetrics]:
        """Runs the function; see `OwnRun.fit`.

        Raises:
            StopIgnoredError: It was stopped, and goes on.
        """
        self.trial.seed_everything()
        self._steps = self._start()
        try:
            yield from super().fit()
        except GeneratorExit:
            if self._ranks is not None:
                self._ranks.agree(STOP)
            raise
        finally:
            self._close()

    def state_dicts(self) -> dict[str, Any]:
        """Returns the state of what the function gave `epochs`; raises FunctionError if it cannot be saved."""
        states = {name: state_of(each) for name, each in self.trial._states.items()}
        if not self._saveable:
            require_saveable(states)
            self._saveable = True
        self._files.copy()
        return {"states": states, "random": random_states(), "ended": self.ended}

    def _start(self) -> "GeneratorCall | ThreadCall":
        function = self._function
        if yields(function):
            return GeneratorCall(function(self.trial))
        return ThreadCall(lambda: function(self.trial), self.config.threads)

    def _close(self) -> None:
        """Ends the function, and frees what its frames held."""
        try:
            self._steps.close()
        except StopIgnoredError as error:
            raise StopIgnoredError(f"{self.name} {error}") from None
        finally:
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()

    def _report(self, values: Metrics) -> None:
        if not isinstance(self._steps, ThreadCall):
            raise FunctionError(f"{self.name} yields: it gives its metrics to yield, not to trial.report")
        self._steps.report(values)

    def _go_on(self) -> object:
        """Runs the function to its next report, which it returns, or None at its end; its prints go to the log, too."""
        if self.trial.rank:  # rank 0's prints are the log
            return next(self._steps, None)
        with self._files.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
            out, err = LogStream(sys.stdout, log), LogStream(sys.stderr, log)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return next(self._steps, None)

    def _next_epoch(self) -> EpochMetrics | None:
        """Runs the function to its next report, on all ranks; returns None if it returns before, or is stopped."""
        if self._ranks is not None and not self._goes_on(self._ranks):
            return None
        began = time.perf_counter()
        self.trial.epoch = self.epoch
        reported = self._go_on()
        seconds = time.perf_counter() - began
        values = None if reported is None else self._values(reported)
        if self._ranks is not None:
            values = self._ranks.mean(values)
        if values is None:
            return None
        return self._finished(self._number_of(values), values, seconds)

    def _goes_on(self, ranks: Ranks) -> bool:
        """Waits for rank 0 to go on, and takes its random states; returns False if the trial was stopped instead."""
        if ranks.rank == 0:
            ranks.agree(random_text())
        elif (text := ranks.agree()) == STOP:
            return False
        else:
            set_random_text(text)
        return True

    def _finish(self) -> None:
        if self._go_on() is not None:
            self._warn_going_on()

    def _values(self, reported: object) -> dict[str, float]:
        """Returns the metrics of an epoch that the function has reported, those of guidance included."""
        if not self.trial._is_distributed:
            raise FunctionError(
                f"{self.name} trains in {self.trial.world_size} processes, each on its own: it is to call "
                "model = trial.distributed(model), and to take trial.shard(batch) of each batch; or leave "
                "resources.workers out, and resources.gpus at 1 at most"
            )
        where = self._steps.where()
        if not isinstance(reported, Mapping):
            raise FunctionError(f"{where}{self.name} reported a {type(reported).__name__}, not numbers by name")
        logged, self.trial._logged = self.trial._logged, {}
        values = self._numbers({**logged, **reported}, where)
        with warnings.catch_warnings():  # the driver tells of guidance that is inert or dominant, once a run
            warnings.simplefilter("ignore", GuidanceWarning)
            for guidance in self.trial._guidance:
                values |= guidance.metrics()
        return values

    def _number_of(self, values: dict[str, float]) -> int:
        """Returns the number of a reported epoch; raises FunctionError unless it follows the one before."""
        given, current, before = values.pop("epoch", None), self.trial._current, self._reported
        epoch = int(given if given is not None else current if current is not None else (before or 0) + 1)
        # The first one of a resumed trial may be any: the function starts again, or from a checkpoint of its own.
        first = range(1, self.config.training.max_epochs + 1) if self.epoch else (1,)
        if epoch not in (first if before is None else (before + 1,)) or current not in (None, epoch):
            expected = (before or 0) + 1
            raise FunctionError(
                f"{self._steps.where()}{self.name} reported epoch {epoch} where {expected} was next: each "
                "epoch is reported once, in order, and all that lies between two reports is an epoch"
            )
        if before is None and epoch == 1 and self.epoch:
            self._warn(f"{self.name} gives trial.epochs() nothing to save: starts again at epoch {epoch}")
        self._reported = epoch
        return epoch
