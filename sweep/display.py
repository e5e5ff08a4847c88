"""What a terminal shows: the live view of a run, one line per trial in a log, and the tables at the end."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import IO, TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .config import StudyConfig
from .dimensions import ALIASES
from .explain import WIDE, meaning, standing_out, trust
from .rows import ARMS
from .words import duration, inline, short, spread, verdicts

if TYPE_CHECKING:  # Ray starts sooner where a line of text does not wait for what the driver imports
    from .finalists import Comparison
    from .metrics import EpochMetrics
    from .profile import Profile
    from .rows import Outcome, Row
    from .sensitivity import Analysis, Interval
    from .service import Summary
    from .study import Trial


class Progress:
    """The driver's listener: counts what happens; its children show it.

    Args:
        done: rows that have ended before.
        left: how many rows are to be trained; by default what is left of the search, its finalists and controls.
    """

    def __init__(self, config: StudyConfig, console: Console, done: Sequence[Row] = (), left: int | None = None):
        self.config, self.console = config, console
        setattr(console, "on_broken_pipe", partial(silence, console.file))  # noqa: B010 (Rich's own would end the run)
        self.counts = dict.fromkeys(("completed", "pruned", "diverged", "failed"), 0)
        searched = [row for row in done if row.kind == "trial"]
        for row in searched:
            if row.outcome is not None:
                self.counts[row.outcome] += 1
        self.running: dict[tuple[str, int], tuple[Trial, EpochMetrics | None]] = {}
        completed = [
            (row.value, row.number) for row in searched if row.outcome == "completed" and row.value is not None
        ]
        choose = min if config.objective.direction == "minimize" else max
        self.best: tuple[float, int] | None = choose(completed, default=None)
        self.notices: list[str] = []
        self._began, self._ended_here, self._after = time.monotonic(), 0, 0
        search = config.search
        beside = max(0, search.afterwards - (len(done) - len(searched)))
        self._left = max(0, search.trials - len(searched)) + beside if left is None else left

    def started(self, trial: Trial) -> None:
        """Adds a running trial."""
        self.running[trial.key] = trial, None

    def progressed(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Remembers a trial's last epoch."""
        self.running[trial.key] = trial, metrics

    def ended(self, trial: Trial, outcome: Outcome, error: str | None) -> None:  # noqa: ARG002 (shown by LogLines)
        """Counts an outcome."""
        self.running.pop(trial.key, None)
        self._ended_here += 1
        if trial.kind != "trial":
            self._after += 1
            return
        self.counts[outcome] += 1
        value = trial.best
        if outcome == "completed" and value is not None:
            objective = self.config.objective
            if self.best is None or objective.better(value, self.best[0]):
                self.best = value, trial.number

    def noticed(self, message: str) -> None:
        """Shows a notice above whatever is shown."""
        self.notices.append(message)
        self.console.print(Text(f"note: {message}", style="yellow"))

    def told(self, end: Mapping[str, Any]) -> None:
        """How the run has ended; for people there are tables."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""

    def remaining(self) -> str:
        """Time left at the present rate, in words."""
        if not self._ended_here:
            return "estimating"
        left = self._left - self._ended_here
        return f"about {duration(max(0, left) * (time.monotonic() - self._began) / self._ended_here)} left"


class LogLines(Progress):
    """One line at the start and one per finished trial: for pipes and log files."""

    def started(self, trial: Trial) -> None:
        """Prints, with the first one, what is to come: a run that is refused before prints nothing."""
        if not self._ended_here and not self.running:
            epochs, ended = self.config.training.max_epochs, sum(self.counts.values())
            left = f"up to {self._left} to train, of {epochs} epochs at most"
            self.console.print(f"{self.config.name}: {left}; {ended or 'none'} ended before", soft_wrap=True)
        super().started(trial)

    def ended(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """Prints the line."""
        super().ended(trial, outcome, error)
        value = "" if trial.best is None else f"{self.config.objective.metric}={trial.best:.5g}"
        name = f"{trial.study}-{trial.number:04d}"
        reason = f": {error.strip().splitlines()[-1]}" if error else ""
        line = f"{name} {trial.kind} {outcome} {value} epochs={trial.epochs} {inline(trial.hyperparameters)}{reason}"
        self.console.print(Text(line), soft_wrap=True)


class JsonLines(Progress):
    """One line of JSON per event, for programs that watch a run."""

    def __init__(
        self,
        config: StudyConfig,
        console: Console,
        done: Sequence[Row] = (),
        left: int | None = None,
        *,
        stream: TextIO,
    ):
        super().__init__(config, console, done, left)
        self._stream = stream

    def started(self, trial: Trial) -> None:
        """Prints the line."""
        super().started(trial)
        self._print("started", trial, hyperparameters=trial.hyperparameters)

    def progressed(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Prints the line."""
        super().progressed(trial, metrics)
        values = {name: value if isfinite(value) else None for name, value in metrics.values.items()}
        self._print("progress", trial, epoch=metrics.epoch, metrics=values)

    def ended(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """Prints the line."""
        super().ended(trial, outcome, error)
        value = trial.best if trial.best is not None and isfinite(trial.best) else None
        self._print("ended", trial, outcome=outcome, value=value, epochs=trial.epochs, error=error)

    def noticed(self, message: str) -> None:
        """Prints the line."""
        super().noticed(message)
        self._print("notice", message=message)

    def told(self, end: Mapping[str, Any]) -> None:
        """Prints the last line."""
        self._print(**end)

    def _print(self, event: str, trial: Trial | None = None, **facts: object) -> None:
        of = {"study": trial.study, "trial": trial.number, "kind": trial.kind} if trial else {}
        line = {"time": time.time(), "study": self.config.name, "event": event, **of, **facts}
        try:
            print(json.dumps(line), file=self._stream, flush=True)
        except BrokenPipeError:
            silence(self._stream)


def silence(stream: IO[str]) -> None:
    """Sends what is printed from here on to nobody: the reader has gone, and a run needs none."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class LiveView(Progress):
    """Redraws the state of a run in place, twice a second."""

    def __enter__(self) -> LiveView:
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Removes the live view."""
        self._live.__exit__(None, None, None)

    def _render(self) -> RenderableType:
        total, done = self.config.search.trials, sum(self.counts.values())
        head = Text.assemble((self.config.name, "bold"), f"  {done}/{total} trials  ")
        head.append(", ".join(f"{n} {outcome}" for outcome, n in self.counts.items() if n or outcome == "completed"))
        head.append(f", {len(self.running)} running")
        if self._after:
            head.append(f", {self._after} beside the search")
        if self.best is not None:
            head.append(f"  best {self.config.objective.metric} {self.best[0]:.5g} (trial {self.best[1]})")
        head.append(f"  {self.remaining()}", style="dim")
        table = Table.grid(padding=(0, 2))
        for trial, metrics in list(self.running.values()):
            epoch = metrics.epoch if metrics else 0
            value = f"{metrics.values[self.config.objective.metric]:.5g}" if metrics else "-"
            table.add_row(
                f"  {trial.study}-{trial.number:04d}",
                trial.kind,
                f"epoch {epoch}/{trial.config.training.max_epochs}",
                f"{self.config.objective.metric} {value}",
                Text(inline(trial.hyperparameters), style="dim"),
            )
        return Group(head, table)


def best_table(config: StudyConfig, rows: Sequence[Row]) -> Table:
    """The best trials of a search."""
    names = [n for n in [*ALIASES, *config.searched] if any(n in r.hyperparameters for r in rows)]
    names = list(dict.fromkeys(names))
    table = Table(box=box.SIMPLE_HEAD, title=f"Best of the search, by {config.objective.metric}", title_justify="left")
    for name in ("trial", config.objective.metric, *names, "epochs"):
        table.add_column(name, justify="right")
    for row in rows:
        values = [short(row.hyperparameters.get(n, config.constants.get(n))) for n in names]
        table.add_row(str(row.number), f"{row.value:.5g}", *values, str(row.epochs))
    return table


def comparison_table(config: StudyConfig, comparison: Comparison) -> Table:
    """The finalists beside their controls, on fresh seeds: mean and standard deviation."""
    n = config.search.finalists.seeds
    metric = config.objective.metric
    title = f"Finalists and controls: {metric} on {n} fresh seeds, mean ± sd; gain is positive where guidance is better"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("trial", "guided", "plain control", "gain", "tuned control", "gain over tuned"):
        table.add_column(name, justify="right")
    for f in comparison.finalists:
        samples = (f.guided, f.plain, f.gain_over_plain, f.tuned, f.gain_over_tuned)
        table.add_row(str(f.number), *(spread(s, signed=i in (2, 4)) for i, s in enumerate(samples)))
    return table


def print_summary(summary: Summary, console: Console, *, top: int = 5) -> None:
    """The end of a run: tables and words."""
    config = summary.config
    counts = ", ".join(
        f"{n} {o}" for o in ("completed", "pruned", "diverged", "failed")
        if (n := sum(r.outcome == o for r in summary.rows))
    )  # fmt: skip
    console.print(f"[bold]{config.name}[/]: {len(summary.rows)} trials: {counts or 'none finished'}")
    if summary.best:
        console.print(best_table(config, summary.best[:top]))
    if summary.comparison.finalists:
        console.print(comparison_table(config, summary.comparison))
    for sentence in verdicts(config, summary.comparison):
        console.print(sentence)
    for row in [r for r in summary.rows if r.outcome == "failed"][:3]:
        reason = _last_line(row) or "no reason recorded"
        console.print(Text(f"trial {row.number} failed: {reason}", style="red"))


def status_table(summary: Summary) -> Table:
    """How many trials of a study there are of each state and outcome."""
    table = Table(box=box.SIMPLE_HEAD, title=summary.config.name, title_justify="left")
    for name in ("", "waiting", "running", "completed", "pruned", "diverged", "failed"):
        table.add_column(name, justify="right")
    for name, rows in (("search", summary.rows), ("finalists, controls, pairs", summary.controls)):
        states: list[str] = [r.outcome or r.state for r in rows]
        kinds = ("waiting", "running", "completed", "pruned", "diverged", "failed")
        table.add_row(name, *(str(states.count(k)) for k in kinds))
    return table


def status_lines(summary: Summary, *, tracebacks: bool) -> Iterator[str]:
    """The drivers of a study's unfinished trials and what they have, then what has failed or diverged.

    Args:
        tracebacks: say the whole of an error, not its last line alone.
    """
    study = summary.config.name
    rows = [*((study, row) for row in summary.rows), *((f"{study}.controls", row) for row in summary.controls)]
    drivers: dict[tuple[str | None, bool, bool], list[str]] = {}
    for name, row in rows:
        before = f"; its code has failed before: {_last_line(row)}" if row.error else ""
        if row.state == "running":
            line = f"    {_title(name, row)}: epoch {row.epochs} of {summary.config.training.max_epochs}{before}"
            drivers.setdefault((row.owner, row.orphan, row.kind in ARMS), []).append(line)
    for (owner, orphan, of_pair), trials in drivers.items():
        then = f"the next sweep confirm {study}" if of_pair else "the next run"
        if owner is None:
            yield f"  trials that a driver takes just now, or had taken when it died; {then} goes on with those:"
        elif orphan:
            yield f"  driver {owner} is dead or was stopped; {then} goes on with its trials, now orphans:"
        else:
            here = owner.startswith(f"{socket.gethostname()} ")
            yield f"  driver {owner} is at work{'' if here else ', as far as can be seen from another host'}:"
        yield from trials
    if waiting := sum(row.state == "waiting" and row.kind in ARMS for row in summary.controls):
        yield f"  {waiting} members of pairs wait for a sweep confirm {study} that wants them"
    for name, row in rows:
        if row.outcome in ("failed", "diverged"):
            error = (row.error or "").strip() if tracebacks else _last_line(row)
            yield f"  {_title(name, row)} {row.outcome}: {error or 'no reason recorded'}"


def _title(study: str, row: Row) -> str:
    of = f" of trial {row.of}, seed {row.seed}" if row.of is not None else ""
    return f"{study}-{row.number:04d} ({row.kind}{of})"


def _last_line(row: Row) -> str:
    return (row.error or "").strip().rpartition("\n")[2]


def print_analysis(analysis: Analysis, console: Console, *, brief: bool = False) -> None:
    """What matters in a study: how far to trust it, the indices, what they mean; ``brief``: without the table."""
    at = "" if analysis.epoch is None else f", epoch {analysis.epoch}"
    console.print(Text(f"Sensitivity of {analysis.objective} in {analysis.study}{at}", style="bold"))
    console.print(Text(trust(analysis)), soft_wrap=True)
    if analysis.trusted and not brief:
        console.print(_indices_table(analysis))
        for (a, b), together in standing_out(analysis):
            console.print(Text(f"  {a} x {b}  {_share(together.value, together.ci)}"))
    for name, why in analysis.left_out.items():
        console.print(Text(f"  {name} is left out: {why}"))
    console.print(Text(meaning(analysis)), soft_wrap=True)
    if analysis.divergence is not None and not brief:
        console.print()
        print_analysis(analysis.divergence, console)


def _indices_table(analysis: Analysis) -> Table:
    part = f"the part of the search space with {analysis.where}" if analysis.where else "the search space"
    table = Table(box=box.SIMPLE_HEAD, title=Text(f"Shares of the variance over {part}"), title_justify="left")
    for name in ("hyperparameter", "alone (first order)", "with interactions (total)"):
        table.add_column(name, justify="left" if name == "hyperparameter" else "right")
    for name, index in sorted(analysis.parameters.items(), key=lambda item: -item[1].total):
        table.add_row(Text(name), _share(index.first, index.first_ci), _share(index.total, index.total_ci))
    return table


def _share(value: float, ci: Interval) -> str:
    """An index with its interval; a wide interval alone."""
    low, high = ci
    return f"{low:.2f} to {high:.2f}" if (high - low) / 2 > WIDE else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def importances_table(objective: str, importances: Mapping[str, float]) -> Group:
    """Optuna's importances under their true name."""
    title = Text(
        f"Optuna's PED-ANOVA importances for {objective}: what separated the best trials of this search from the "
        "others; they depend on where it looked and what it pruned, and are no shares of the variance"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("hyperparameter")
    table.add_column("importance", justify="right")
    for name, value in importances.items():
        table.add_row(Text(name), f"{value:.2f}")
    return Group(title, table if importances else Text("None: too few completed trials."))


def profile_table(profile: Profile) -> Table:
    """One line a layer: its entropy, and how far its singular values or its filters lie apart."""
    columns = ("layer", "kind", "shape", "entropy, nats per dimension", "spread")
    table = Table(*columns, title=profile.title, box=box.SIMPLE)
    for layer in profile.layers:
        if layer.kind == "dense":
            spread = f"singular values {layer.values[-1]:.3g} to {layer.values[0]:.3g}"
        else:
            spread = f"{len(layer.outliers)} of {len(layer.values)} filters are outliers"
        shape = "x".join(str(side) for side in layer.shape)
        table.add_row(layer.name, layer.kind, shape, f"{layer.entropy:+.3f}", spread)
    return table
