"""One trial of the user's own: trains it in this process, keeps its model, or enqueues it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..analysis.summary import summarise
from ..config.errors import ConfigError, DivergenceError, SweepError, nearest
from ..config.search_space import Scalar
from ..config.settings import Settings
from ..config.study_config import StudyConfig, TrialConfig
from ..config.study_file import read_yaml
from ..config.user_code import user_error_location
from ..study.storages.catalog import get_storage, load_stored_config
from ..training.reports import TrialPaths, TrialReport


def trial_config(config: StudyConfig, settings: Settings, number: int | None) -> TrialConfig:
    """Returns the config of trial ``number``, or the constants of a study that searches nothing."""
    if number is None:
        if config.searched:
            raise ConfigError("train", [f"{n}: give it a value, --set {n}=..." for n in config.searched])
        return config.trial({})
    rows = {row.number: row for row in summarise(config.name, settings).rows}
    row = rows.get(number)
    if row is None or not row.hyperparameters:
        raise SweepError(f"trial {number}: {config.name} has no such trial that was started (0 to {len(rows) - 1})")
    return config.trial(row.hyperparameters, seed=row.seed)


def train(trial: TrialConfig, settings: Settings, folder: Path) -> Iterator[TrialReport]:
    """Trains one trial in this process, from scratch, and yields its reports; raises a DivergenceError."""
    from ..training.trial import run_trial

    place = TrialPaths(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0)
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
    if out.suffix != ".pt2":
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
    from ..training.loop import evaluate
    from ..training.trial import assemble

    run, _ = assemble(trial, TrialPaths(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0))
    dataset = load_data(trial.data, root=settings.data, cache=settings.cache)
    return evaluate(run, dataset.test.to(run.device), "test")


def enqueue(name: str, settings: Settings, sets: Sequence[str]) -> tuple[int, dict[str, Scalar]]:
    """Enqueues one configuration of the user's own; the next run trains it, and the budget grows by one.

    Returns the number of the trial and the hyperparameters that are set; raises a ConfigError with all unfit ones.
    """
    from ..study.distributions import contains, distributions
    from ..study.study import Study

    config = load_stored_config(name, settings)
    space, values, problems = distributions(config.searched), {}, []
    for assignment in sets:
        key, sign, text = assignment.partition("=")
        value = read_yaml(f"value: {text}", f"--set {key}")["value"] if sign else None
        if key not in space:
            problems.append(f"{key}: not searched in {name}{nearest(key, list(space))}; searched: {', '.join(space)}")
        elif not contains(space[key], value):
            problems.append(f"{key}: {value!r} is not in {config.searched[key]}")
        else:
            values[key] = value
    if not values and not problems:
        problems.append(f"--set: give at least one of {', '.join(space)}; the sampler chooses the rest")
    if problems:
        raise ConfigError("options", problems)
    search = config.search.model_copy(update={"trials": config.search.trials + 1})
    config = config.model_copy(update={"search": search})
    study = Study(config, get_storage(settings.storage), workspace=settings.workspace)
    return study.enqueue(values), values
