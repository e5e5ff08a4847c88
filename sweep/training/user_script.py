"""Runs a script of the user's own as a trial: `ScriptRun`, which `run_trial` advances line by line of its metrics.

An epoch is a line of JSON in the file of metrics. The script goes on meanwhile: what it has written is in the file,
whenever the worker dies, so that its own checkpoints are never ahead of what is known.
"""

import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any

from ..config.errors import FunctionError, ScriptError
from ..config.secrets import redact, without_driver_secrets
from ..config.trial_config import TrialConfig
from ..config.user_code import search_folders
from ..config.user_command import HYPERPARAMETERS, SEED, fill
from . import checkpoint
from .attempt_files import AttemptFiles
from .checkpoint import Checkpoint
from .loop import Diverged
from .own_run import OwnRun
from .reports import EpochMetrics, TrialPaths
from .script_process import ScriptProcess

POLL = 0.05  # seconds between two looks at the file of metrics
SHOWN = 80  # characters of a line that is no JSON
COMPARED = 200  # bytes of the metrics that are read again, to notice that they were written over
AHEAD = "its checkpoint is ahead of its metrics: it must write (and flush) the line of an epoch before its checkpoint"


class ScriptRun(OwnRun):
    """A run of a script between two epochs.

    Attributes:
        saved: The newest checkpoint, with the epochs that an interrupted attempt had written after it.
    """

    saves_every_epoch = False  # the file of metrics has them
    report_hint = ": it appends a line of JSON for each epoch to the file that SWEEP_METRICS_FILE names"

    def __init__(
        self,
        config: TrialConfig,
        paths: TrialPaths,
        attempt: str,
        saved: Checkpoint | None,
        warn: Callable[[str], object],
    ) -> None:
        super().__init__(config, saved, warn)
        self._place = paths.folder
        self._process: ScriptProcess
        self._lines: Iterator[bytes]
        self._files = AttemptFiles(paths.folder / attempt, saved.path.parent if saved else None)
        self._final: EpochMetrics | None = None  # if an interrupted attempt wrote its line, and had not ended
        self.saved = self._with_unsaved(saved, attempt) if saved else None
        self._line_before = 0.0  # time of the line before

    def fit(self) -> Generator[EpochMetrics]:
        """Runs the script; see `OwnRun.fit`.

        Raises:
            ScriptError: It has ended with an error.
        """
        self._files.metrics.write_bytes(b"")
        values = {
            **self.config.offered,
            "seed": self.config.training.seed,
            "max_epochs": self.config.training.max_epochs,
        }
        words = fill(self.config.command or (), values)
        self._line_before = time.perf_counter()
        place, variables = self._files.own, self._variables()
        try:
            with ScriptProcess(words, folder=place, variables=variables, log=self._files.log) as self._process:
                self._lines = self._written()
                yield from super().fit()
        finally:
            self._files.copy()  # with what it has saved at SIGTERM

    def state_dicts(self) -> dict[str, Any]:
        """Returns if the script has ended; copies its files to object storage."""
        self._files.copy()
        return {"ended": self.ended}

    def _variables(self) -> dict[str, str]:
        """Returns the script's environment: this process's without the driver's secrets, and what it needs to know."""
        config, number = self.config, self._place.name
        path = [*filter(None, [os.environ.get("PYTHONPATH")]), *search_folders()]
        return {
            **without_driver_secrets(os.environ, sys.argv),
            "SWEEP_METRICS_FILE": str(self._files.metrics),
            "SWEEP_CHECKPOINT_DIR": str(self._files.own),
            "SWEEP_ARTIFACT_DIR": str(self._files.artifacts),
            HYPERPARAMETERS: json.dumps(config.offered),
            SEED: str(config.training.seed),
            "SWEEP_EPOCH": str(self.epoch if self._final is None else self._final.epoch),
            "SWEEP_MAX_EPOCHS": str(config.training.max_epochs),
            "SWEEP_CONFIRMING": str(int(config.test)),
            "SWEEP_STUDY": self._place.parent.name,
            "SWEEP_TRIAL": str(int(number) if number.isdecimal() else 0),
            "OMP_NUM_THREADS": str(config.threads),
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
        }

    def _written(self) -> Iterator[bytes]:
        """Yields the lines of the metrics as they are written, up to the script's end."""
        with self._files.metrics.open("rb") as file:
            seen, rest, ended = b"", b"", False
            while not ended:
                ended = self._process.wait(POLL) is not None
                file.seek(-len(seen), os.SEEK_CUR)
                read = file.read()
                if not read.startswith(seen) or _is_replaced(file):
                    raise FunctionError(f"{self.name} has written SWEEP_METRICS_FILE anew: open it to append to it")
                rest += read[len(seen) :]
                seen = read[-COMPARED:]
                *lines, rest = rest.split(b"\n")
                yield from filter(bytes.strip, lines)
            if rest.strip():
                yield rest

    def _next_epoch(self) -> EpochMetrics | None:
        line = next(self._lines, None)
        if line is None:
            self._require_success()
            if self._reported is not None and self._reported < self.epoch:
                raise ScriptError(
                    f"{self.name} was resumed after epoch {self.epoch}, and ended after {self._reported} lines: it "
                    "went on from its checkpoint, but its lines have no epoch to tell which they are"
                )
            found, self._final = self._final, None
            return found
        now, first = time.perf_counter(), self._reported is None
        self._line_before, seconds = now, now - self._line_before
        metrics = self._parsed(line, seconds)
        if first and metrics.epoch == 1 and self.epoch:
            self._warn(f"{self.name} has no checkpoint in SWEEP_CHECKPOINT_DIR: starts again at epoch 1")
        return metrics

    def _finish(self) -> None:
        if next(self._lines, None) is None:
            self._require_success()
        else:
            self._warn_going_on()

    def _require_success(self) -> None:
        if code := self._process.code:
            names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
            how = f"exit code {code}" if code > 0 else f"the signal {names.get(-code, -code)}"
            raise ScriptError(redact(f"{self.name} ended with {how}\n{self._process.last_lines()}").rstrip())

    def _parsed(self, line: bytes, seconds: float) -> EpochMetrics:
        """Returns the epoch of a line; raises FunctionError if it is none, or not the next one."""
        text = line.decode("utf-8-sig", errors="replace").strip()
        try:
            reported = json.loads(text)
        except (ValueError, RecursionError):
            raise FunctionError(f"{self.name} wrote what is no line of JSON: {redact(text)[:SHOWN]!r}") from None
        if not isinstance(reported, dict):
            raise FunctionError(f"{self.name} wrote a {type(reported).__name__}, not numbers by name")
        # null is what JSON has for a number that is none.
        values = self._numbers({name: math.nan if value is None else value for name, value in reported.items()}, "")
        return self._finished(self._number_of(values), values, seconds)

    def _number_of(self, values: dict[str, float]) -> int:
        """Returns the number of an epoch, counted from the start of the script unless its line has it.

        Raises:
            FunctionError: It does not follow the one before.
            ScriptError: It is beyond the one after the last that is known.
        """
        before = self._reported
        following = (before or 0) + 1
        given = values.pop("epoch", following)
        if not float(given).is_integer():
            raise FunctionError(f"{self.name} wrote epoch {given:g}, which is no whole number")
        epoch = int(given)
        if before is None and epoch > self.epoch + 1 > 1:
            raise ScriptError(f"{self.name} went on with epoch {epoch} where {self.epoch + 1} was next: {AHEAD}")
        if epoch not in (range(1, self.epoch + 2) if before is None else (following,)):
            raise FunctionError(
                f"{self.name} wrote epoch {epoch} where {following} was next: they count from 1, each once, in order"
            )
        self._reported = epoch
        return epoch

    def _with_unsaved(self, saved: Checkpoint, attempt: str) -> Checkpoint:
        """Returns a checkpoint of this attempt with the epochs whose lines were written after the newest one."""
        lines = self._files.metrics.read_bytes().split(b"\n")[:-1] if self._files.metrics.exists() else []
        diverged = saved.diverged
        try:
            for line in filter(bytes.strip, lines):
                metrics = self._parsed(line, 0.0)
                if self.epoch < metrics.epoch < self.config.training.max_epochs:
                    self.history.append(metrics)
                elif metrics.epoch == self.config.training.max_epochs and self.epoch == metrics.epoch - 1:
                    self._final = metrics  # it counts once the script has ended
        except Diverged as end:
            diverged = end.epoch
        except (FunctionError, ScriptError):
            pass  # the script is told of it when it does so again
        self._reported = None
        if len(self.history) == len(saved.history) and diverged == saved.diverged:
            return saved
        path = checkpoint.save(self._place / attempt, self.history, self.state_dicts(), diverged=diverged)
        return dataclasses.replace(saved, path=path, history=self.history[:], diverged=diverged)


def _is_replaced(file: IO[bytes]) -> bool:
    """Returns True if another file has the name of an open one by now, or none."""
    path = Path(file.name)
    return not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno()))
