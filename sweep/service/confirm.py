"""`sweep confirm`: plans baselines and pairs for a finished study, trains both, compares the pairs' checkpoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..analysis.summary import Summary, summarise
from ..config.errors import ConfigError, nearest, reason
from ..config.search_space import Scalar
from ..config.sections import Objective
from ..config.settings import Settings
from ..config.study_config import OF_CONFIRM, StudyConfig
from ..execution.executor import get_executor
from ..study.records import ARMS, Arm, TrialRecord
from ..study.storages.catalog import CONFIRMATION, get_storage, load_stored_config, study_names_of_ours
from .analyse import log_to_run
from .preflight.load import load_study
from .run import RunOptions, check_run, run

if TYPE_CHECKING:
    from ..analysis.confirmation import BaselineResult, Confirmation
    from ..analysis.expected_best import BestOfN
    from ..analysis.paired_comparison import PairedComparison
    from ..analysis.speedup import Member
    from ..tracking.tracker import Tracker
    from .callback import RunCallback

LONGEST = 100  # characters of a study's name

Listen = Callable[[StudyConfig, int | None], contextlib.AbstractContextManager["RunCallback"]]


@dataclass(frozen=True)
class ConfirmPlan:
    """The plan of a confirmation."""

    config: StudyConfig
    top: list[TrialRecord]  # the configurations to confirm, best first
    baselines: dict[Arm, StudyConfig]  # the studies that search the best configuration of each baseline
    first: dict[Arm, list[dict[str, Scalar]]]  # points that these must try: the configurations without guidance
    notes: list[str]  # limitations that a reader must know


def confirm(
    name: str,
    settings: Settings,
    listen: Listen,
    *,
    top: int = 1,
    seeds: int = 8,
    against: Sequence[str] = (),
    placebo: bool = False,
    options: RunOptions | None = None,
) -> Confirmation | None:
    """Trains a study's best configurations and the baselines in pairs on fresh seeds; measures them on the test set.

    Finished trials are not trained again: every call is a resume. Pairs of an earlier call with more pairs count too.

    Args:
        listen: makes the callback of a run, from its config and, for the run of the pairs, the number of rows left.
        seeds: pairs of each configuration.
        against: other methods in place of guidance, among `sweep.study.baselines.METHODS`.
        options: options of the runs; ``conclude``, ``pairs`` and ``first`` are set here.

    Returns:
        The confirmation; None if it was stopped.

    Raises:
        ConfigError: all reasons why the study cannot be confirmed, at once.
        SweepError: see `run`.
    """
    from ..analysis.confirmation import best_hyperparameters
    from ..study.baselines import wanted_pairs
    from ..study.finalists import missing_trials

    options = replace(options or RunOptions(), conclude=False)
    plan = plan_confirmation(name, settings, top=top, against=against)
    with contextlib.ExitStack() as connection:  # one for all runs, opened by the first that has anything to train
        found = _train_baselines(plan, settings, listen, options, connection)
        if found is None:
            return None
        wanted = wanted_pairs(plan.config, plan.top, best_hyperparameters(found), seeds=seeds, placebo=placebo)
        left = len(missing_trials(wanted, [r for r in summarise(name, settings).controls if r.state == "finished"]))
        with listen(plan.config, left) as callback:
            summary = run(plan.config, settings, callback, replace(options, pairs=wanted))
            if summary.interrupted:
                return None
            confirmation = read_confirmation(plan, found, summary, settings, placebo=placebo)
            if problem := log_confirmation(confirmation, settings):
                callback.on_message(f"tracking: {problem}; the next sweep confirm {name} sends what is missing")
            if problem := store_confirmation(confirmation, settings):
                callback.on_message(f"the report will lack it ({problem}); the next sweep confirm {name} stores it")
    return confirmation


def _train_baselines(
    plan: ConfirmPlan, settings: Settings, listen: Listen, options: RunOptions, connection: contextlib.ExitStack
) -> list[BaselineResult] | None:
    """Runs the baselines' studies; returns the best of each, or None if a run was stopped."""
    from ..analysis.confirmation import BaselineResult

    found, notes = list[BaselineResult](), iter(plan.notes)
    for arm, baseline in plan.baselines.items():
        baseline_options = replace(options, first=plan.first[arm])
        with listen(baseline, None) as callback:
            for note in notes:  # before the first run
                callback.on_message(note)
            if not check_run(baseline, settings, baseline_options):
                connection.enter_context(get_executor(options.executor).connect(baseline, settings))
            summary = run(baseline, settings, callback, baseline_options)
        if summary.interrupted:
            return None
        found.append(BaselineResult.of(arm, summary))
    return found


def plan_confirmation(name: str, settings: Settings, *, top: int, against: Sequence[str]) -> ConfirmPlan:
    """Checks a study and plans its confirmation; raises a ConfigError with all problems."""
    from ..data.loading import find_reader
    from ..study.baselines import METHODS, baseline_study, default_values, first_points
    from ..study.storages.storage import get_user_attr
    from .preflight.space_checks import check_study

    load_stored_config(name, settings)
    config, _ = load_study(name, settings)
    prior = len(get_user_attr(name, "knowledge", get_storage(settings.storage)) or [])
    summary = summarise(name, settings)
    best, total = summary.best, max(len(summary.rows), config.search.trials)
    ended = sum(row.state == "finished" for row in summary.rows)
    baselines: dict[Arm, StudyConfig] = {}
    defaults = _default_options(config)
    problems = _problems(config, best, defaults, top, against)
    if config.kind == "model" and find_reader(config.data, settings.data, settings.cache).info.num_test < 1:
        problems.append(f"data: {config.data.name} has no test images to measure on")
    if not config.guided:
        problems += [
            f"space.{each}: has no default to compare with; give it one, default: VALUE, and run {name} again"
            for each, value in default_values(config).items()
            if value is None and each in config.searched
        ]
    if not problems and config.guided:
        arms: list[Arm] = ["strongest", *(method for method in METHODS if method in against)]
        baselines = {arm: baseline_study(config, arm, ended + prior) for arm in arms}
        problems = [f"{arm}: {each}" for arm, study in baselines.items() for each in check_study(study, settings)[0]]
    if problems:
        raise ConfigError(f"confirm {name}", problems)
    first = {arm: first_points(config, best[:top], study, defaults) for arm, study in baselines.items()}
    note = f"{name} is not finished: {ended} of its {total} trials have ended, and only these are used"
    shown = f"the sampler of {name} was shown {prior} trials of other studies; each baseline gets as many more"
    return ConfirmPlan(config, best[:top], baselines, first, [note] * (ended < total) + [shown] * (prior > 0))


def _default_options(config: StudyConfig) -> dict[str, object]:
    """Returns the options of a study's model with their defaults; of a function's study none."""
    from ..models import options

    if config.kind != "model":
        return {}
    return {option: parameter.default for option, parameter in options(config.model.name).items()}


def _problems(
    config: StudyConfig, best: Sequence[TrialRecord], defaults: Mapping[str, object], top: int, against: Sequence[str]
) -> list[str]:
    """Returns the reasons why a study cannot be confirmed, those of the data and the baselines' studies excepted."""
    from ..study.baselines import METHODS, has_already

    name = config.name
    unknown = [method for method in against if method not in METHODS]
    if config.kind != "model" and against:
        return [f"--against {', '.join(against)}: methods of the built-in loop; {name} trains {config.subject}"]
    problems = [f"--against: {each!r} is none of {', '.join(METHODS)}{nearest(each, [*METHODS])}" for each in unknown]
    if OF_CONFIRM in name:
        problems.append(f"{name} was made by sweep confirm; confirm {name.partition(OF_CONFIRM)[0]}")
    elif len(longest := f"{name}{OF_CONFIRM}{max(METHODS, key=len)}") > LONGEST:
        problems.append(f"{name}: the name is {len(longest) - LONGEST} characters too long for studies like {longest}")
    if not best:
        problems.append(f"{name} has no completed trial yet; to go on: sweep resume {name}")
    elif top > len(best):
        problems.append(f"--top {top}: {name} has {len(best)} completed configurations")
    problems += [
        f"--against {method}: the network of trial {row.number} uses it already"
        for method in METHODS
        for row in best[:top]
        if method in against and has_already(config, row, method, defaults)
    ]
    return problems


def read_confirmation(
    plan: ConfirmPlan, found: Sequence[BaselineResult], summary: Summary, settings: Settings, *, placebo: bool
) -> Confirmation:
    """Compares the finished pairs; reads their metrics from the checkpoints."""
    from ..analysis.confirmation import Confirmation, best_hyperparameters
    from ..analysis.paired_comparison import apply_holm
    from ..study.baselines import pair_members, same_networks, trained

    config, best = plan.config, best_hyperparameters(found)
    wanted = {row.number: pair_members(config, row, best, placebo=placebo) for row in plan.top}
    rows_of = {n: {arm: trained(arm, v, summary.controls) for arm, v in arms.items()} for n, arms in wanted.items()}
    by_seed = [rows for arms in rows_of.values() for rows in arms.values()]
    sister = f"{config.name}.controls"
    members, failed, left_out = _read_members(sister, by_seed, settings)
    compared: list[PairedComparison] = []
    same: dict[tuple[int, str], str] = {}
    defaults = _default_options(config)
    for number, rows_of_arms in rows_of.items():
        arms = {
            arm: {seed: members[row.number] for seed, row in rows.items() if row.number in members}
            for arm, rows in rows_of_arms.items()
        }
        compared += _compare(number, arms, config.objective)
        alike = same_networks(config, wanted[number], defaults)
        same |= {(number, arm): other for arm, other in alike.items()}
    lacking = [each for each in found if each.number is None]
    without_result = [f"{e.arm}: none of the {e.trials} trials of {e.study} has completed" for e in lacking]
    rows = [row for row in summary.controls if row.kind in ARMS and row.state == "finished"]
    return Confirmation(
        study=config.name,
        metric=f"test_{config.objective.metric.removeprefix('val_')}",
        direction=config.objective.direction,
        configurations={row.number: row.hyperparameters for row in plan.top},
        baselines=list(found),
        comparisons=apply_holm(compared, same),
        notes=[*plan.notes, *without_result, *left_out],
        rows=len(rows),
        ended=max(int(1000 * (row.ended or 0.0)) for row in rows),
        expected_best=_expected_best(plan, summary, settings),
        missing=[f"{sister}-{number:04d}" for number in failed],
    )


def _compare(number: int, arms: Mapping[Arm, Mapping[int, Member]], objective: Objective) -> Iterator[PairedComparison]:
    """Yields the comparisons of one configuration, all timed to the target of its plain control."""
    from ..analysis.paired_comparison import compare_pairs

    pairs: list[tuple[Arm, Arm]] = [("guided", arm) for arm in arms if arm != "guided"]
    reference: Arm = "plain" if "plain" in arms else "default"
    pairs += [(arm, reference) for arm in arms if arm not in ("guided", reference)]
    for first, second in pairs:
        yield compare_pairs(number, (first, second), (arms[first], arms[second]), objective, plain=arms[reference])


def _expected_best(plan: ConfirmPlan, summary: Summary, settings: Settings) -> dict[str, BestOfN]:
    """Returns the expected best of n design trials of the search and of the strongest control's."""
    from ..analysis.expected_best import best_of_design
    from ..study.stored_trials import read_rows

    searches = {"guided": summary.rows}
    if (strongest := plan.baselines.get("strongest")) and strongest.name in study_names_of_ours(settings):
        searches["strongest"] = read_rows(strongest.name, get_storage(settings.storage))
    maximize = plan.config.objective.direction == "maximize"
    found = {arm: best_of_design(rows, maximize=maximize) for arm, rows in searches.items()}
    return {arm: each for arm, each in found.items() if each is not None}


def _read_members(
    sister: str, rows: Iterable[Mapping[int, TrialRecord]], settings: Settings
) -> tuple[dict[int, Member], list[int], list[str]]:
    """Loads trained members of pairs, by number; returns also those that failed, and notes why some are left out."""
    from ..analysis.speedup import Member
    from ..training import checkpoint

    members: dict[int, Member] = {}
    failed, gone = list[int](), list[int]()
    for number, row in sorted({row.number: row for by_seed in rows for row in by_seed.values()}.items()):
        if row.outcome == "failed":
            failed.append(number)
        elif (saved := checkpoint.load_latest(settings.checkpoints(sister, number))) is None:
            gone.append(number)
        else:
            collapsed = str(row.outcome) == "collapsed"
            members[number] = Member(saved.history, diverged=saved.diverged is not None, collapsed=collapsed)
    reasons = (failed, "failed, see sweep status"), (gone, "the checkpoints are gone")
    notes = [f"{sister} {', '.join(map(str, n))}: {why}; the pairs are left out" for n, why in reasons if n]
    return members, failed, notes


def store_confirmation(confirmation: Confirmation, settings: Settings) -> str | None:
    """Stores a confirmation with its study, for the report; returns the problem if that fails."""
    from ..study.storages.storage import UNREACHABLE, set_user_attr

    try:
        set_user_attr(confirmation.study, CONFIRMATION, confirmation.as_data(), get_storage(settings.storage))
    except UNREACHABLE as error:
        return reason(error)
    return None


def log_confirmation(confirmation: Confirmation, settings: Settings) -> str | None:
    """Logs a confirmation to the study's own run in MLflow; returns the problem if that fails."""

    def log(tracker: Tracker) -> None:
        tracker.log_text(None, json.dumps(confirmation.as_data(), indent=2), "confirm.json")
        tracker.log_epochs(None, [confirmation.metrics()])

    return log_to_run(confirmation.study, settings, log)
