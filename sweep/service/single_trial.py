"""One trial of the user's own: trains it in this process, keeps its model, enqueues it, or enqueues it once more."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..analysis.summary import summarise
from ..config.conditional import describe_condition
from ..config.errors import ConfigError, DivergenceError, StopIgnoredError, SweepError, nearest
from ..config.search_space import Scalar, parse_value
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.study_file import assigned
from ..config.trial_config import TrialConfig
from ..config.user_code import OWN_MODEL, user_error_location
from ..study.records import ARMS
from ..study.storages.catalog import get_storage, load_stored_config
from ..training.reports import TrialPaths, TrialReport
from .preflight.data_agreement import require_same_data


def trial_config(config: StudyConfig, settings: Settings, number: int | None, *, test: bool = False) -> TrialConfig:
    """Returns the config of trial ``number``, or the constants of a study that searches nothing.

    To ``test`` it, code of the user's own is to measure the test set as it trains.
    """
    found = _trial_config(config, settings, number)
    return found.model_copy(update={"test": test and config.kind != "model"})


def _trial_config(config: StudyConfig, settings: Settings, number: int | None) -> TrialConfig:
    if number is None:
        if config.searched:
            raise ConfigError("train", [f"{n}: give it a value, --set {n}=..." for n in config.searched])
        return config.trial({})
    rows = {row.number: row for row in summarise(config.name, settings).rows}
    row = rows.get(number)
    if row is None or not row.hyperparameters:
        raise SweepError(f"trial {number}: {config.name} has no such trial that was started (0 to {len(rows) - 1})")
    require_same_data(config, settings)  # with others, it would give other numbers
    return config.trial(row.hyperparameters, seed=row.seed)


def train(trial: TrialConfig, settings: Settings, folder: Path) -> Iterator[TrialReport]:
    """Trains one trial in this process, from scratch, and yields its reports; raises a DivergenceError."""
    from ..training.trial import run_trial

    place = TrialPaths(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0)
    with contextlib.suppress(StopIgnoredError):  # this process ends with the trial
        for report in run_trial(trial, place, interval=0.0):
            yield report
            if report.outcome == "diverged":
                raise DivergenceError(f"diverged: {report.error}")


def check_out(trial: TrialConfig, settings: Settings, out: Path) -> None:
    """Raises, before the training, if `write_model` could not write a trial's model.

    Raises:
        ConfigError: ``out`` is no name for a new file.
        SweepError: the network cannot be exported.
    """
    from ..training.program import export, trained_program

    problem = None
    if trial.kind != "model":
        problem = f"{trial.subject} knows its model alone; {OWN_MODEL}"
    elif out.suffix != ".pt2":
        problem = "must end in .pt2, since torch.export.load takes no other name"
    elif out.exists():
        problem = "exists; remove it, or choose another name"
    elif not out.parent.is_dir():
        problem = f"there is no folder {out.parent}; create it, or choose another one"
    elif not os.access(out.parent, os.W_OK):
        problem = f"the folder {out.parent} is not writable; choose another one"
    if problem:
        raise ConfigError("options", [f"--out {out}: {problem}"])
    try:
        export(trained_program(trial, TrialPaths(out.parent, settings.data, settings.cache), None, study=""))
    except SweepError:
        raise
    except Exception as error:  # whatever the exporter raises of a network of the user's own
        reason = user_error_location(error).partition("\n")[0]
        raise SweepError(
            f"--out {out}: the model cannot be exported: {reason}. Leave --out away, or mend the model"
        ) from error


def write_model(
    trial: TrialConfig, settings: Settings, folder: Path, out: Path, *, study: str, number: int | None
) -> None:
    """Writes the model of a trained trial as an exported program; raises a SweepError if the file cannot be written."""
    from ..training import checkpoint
    from ..training.program import trained_program, write

    saved = checkpoint.load_latest(folder)
    place = TrialPaths(folder=folder, data=settings.data, cache=settings.cache)
    try:
        write(trained_program(trial, place, saved, study=study, trial=number), out)
    except OSError as error:
        raise SweepError(f"--out {out}: cannot be written ({error})") from error


def test(trial: TrialConfig, settings: Settings, folder: Path) -> dict[str, float]:
    """Returns the metrics of a trained trial on the test set."""
    from ..data.loading import load_dataset as load_data
    from ..training import checkpoint
    from ..training.loop import evaluate
    from ..training.trial import assemble

    if trial.kind != "model":
        saved = checkpoint.load_latest(folder)
        values = saved.history[-1].values if saved else {}
        return {name: value for name, value in values.items() if name.startswith("test_")}
    run, _ = assemble(trial, TrialPaths(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0))
    dataset = load_data(trial.data, root=settings.data, cache=settings.cache)
    return evaluate(run, dataset.test.to(run.device), "test")


def enqueue(name: str, settings: Settings, sets: Sequence[str]) -> tuple[int, dict[str, Scalar]]:
    """Enqueues one configuration of the user's own; the next run trains it, and the budget grows by one.

    Returns the number of the trial and the hyperparameters that are set; raises a ConfigError with all unfit ones.
    """
    from ..study.constrained import absent_hyperparameters, violated
    from ..study.distributions import contains, distributions
    from ..study.study import Study

    config = load_stored_config(name, settings)
    space, values = distributions(config.searched), {}
    given, problems = assigned(sets)
    for key, value in given:
        if key not in space:
            problems.append(f"{key}: not searched in {name}{nearest(key, list(space))}; searched: {', '.join(space)}")
            continue
        try:
            values[key] = parse_value(key, value, config.searched[key], own=config.kind != "model")
        except ValueError as error:
            problems.append(f"{key}: {error}")
            continue
        if not contains(space[key], values[key]):
            problems.append(f"{key}: {value!r} is not in {config.searched[key]}")
    problems += [
        f"{name}: only where {describe_condition(config.searched[name].when)}"
        for name in absent_hyperparameters(config, values)
    ]
    if not problems and config.is_point(values):
        problems += [f"constraints: {text} does not hold" for text in violated(config, values)]
    if not values and not problems:
        problems.append(f"--set: give at least one of {', '.join(space)}; the sampler chooses the rest")
    if problems:
        raise ConfigError("options", problems)
    search = config.search.model_copy(update={"trials": config.search.trials + 1})
    config = config.model_copy(update={"search": search})
    study = Study(config, get_storage(settings.storage), workspace=settings.workspace)
    return study.enqueue(values), values


class Retry(NamedTuple):
    """A failed trial that is enqueued once more, by the names of the runs."""

    failed: str
    again: str
    of_pair: bool  # True if `sweep confirm` trains it, not `sweep run`


def retry(name: str, settings: Settings, trials: Sequence[str] = ()) -> list[Retry]:
    """Enqueues failed trials of a study and of its sister study once more, by default all of them.

    Args:
        trials: numbers of trials of the search, or names of runs as `sweep status` shows them.

    Raises:
        ConfigError: some of the trials have not failed, or were retried before.
    """
    from ..study.stored_trials import read_rows
    from ..study.study import Study

    config, storage = load_stored_config(name, settings), get_storage(settings.storage)
    studies = {False: name, True: f"{name}.controls"}
    failed = {
        f"{study}-{row.number:04d}": (sister, row)
        for sister, study in studies.items()
        for row in read_rows(study, storage)
        if row.outcome == "failed"
    }
    wanted = [f"{name}-{int(each):04d}" if each.isdecimal() else each for each in trials] or list(failed)
    shown = ", ".join(failed) or "none"
    if unknown := [each for each in wanted if each not in failed]:
        raise ConfigError("options", [f"{each}: only trials that have failed are retried: {shown}" for each in unknown])
    found = list[Retry]()
    for sister in {failed[each][0]: None for each in wanted}:
        study = Study(config, storage, workspace=settings.workspace, sister=sister)
        rows = {row.number: row for is_sister, row in map(failed.__getitem__, wanted) if is_sister == sister}
        names = [f"{study.name}-{number:04d}" for pair in study.retry(rows).items() for number in pair]
        pairs = [row.kind in ARMS for row in rows.values()]
        found += [Retry(*each) for each in zip(names[::2], names[1::2], pairs, strict=True)]
    return found


def trial_log(name: str, settings: Settings, trial: str) -> str:
    """Returns what a trial of the user's own code has printed so far, in all its attempts.

    Args:
        name: Name of the study.
        settings: The places of its files.
        trial: Number of a trial of the search, or the name of a run as `sweep status` shows it.

    Raises:
        SweepError: There is no such trial, or it has no log.
    """
    from ..config.filesystem import read_bytes
    from ..training.attempt_files import LOG, logged

    load_stored_config(name, settings)
    run = f"{name}-{int(trial):04d}" if trial.isdecimal() else trial
    study, _, number = run.rpartition("-")
    if study in (name, f"{name}.controls") and number.isdecimal():
        for path, _ in logged(settings.checkpoints(study, int(number))):
            if path.name == LOG:
                return read_bytes(path).decode(errors="replace")
    raise SweepError(f"--log {trial}: {run} has no log in {settings.workspace}; only trials of your own code do")
