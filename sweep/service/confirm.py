"""`sweep confirm`: checks that a study can be confirmed, has its rivals found and the pairs trained, and reads them.

Their metrics are read from the checkpoints, which hold all epochs of a run and how long each took.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..analysis.confirmation import BaselineResult, Confirmation, best_hyperparameters
from ..analysis.paired_tests import Member, PairedComparison, apply_holm, compare_pairs
from ..analysis.summary import Summary, summarise
from ..config.errors import ConfigError, TrackingError, nearest, reason
from ..config.search_space import Scalar
from ..config.settings import Settings
from ..config.study_config import OF_CONFIRM, StudyConfig
from ..data.loading import reader
from ..execution.session import ray_session
from ..models import options
from ..study.baselines import (
    METHODS,
    baseline_study,
    configurations,
    first_points,
    has_already,
    pair_members,
    trained,
    wanted_pairs,
)
from ..study.finalists import missing_trials
from ..study.records import ARMS, Arm, TrialRecord
from ..study.storages.catalog import CONFIRMATION, get_storage, load_stored_config
from ..tracking.tracker import Tracker
from ..training import checkpoint
from .preflight.load import load_study
from .preflight.space_checks import check_study
from .run import is_complete, run

if TYPE_CHECKING:
    from .driver import RunCallback


LONGEST = 100  # characters of a study's name


@dataclass(frozen=True)
class ConfirmPlan:
    """What is to be confirmed.

    Attributes:
        config: the study's.
        top: the configurations, best first.
        rivals: the studies that find the rivals' best.
        first: points that these are to try: the configurations without guidance.
        notes: what a reader must know of it.
    """

    config: StudyConfig
    top: list[TrialRecord]
    rivals: dict[Arm, StudyConfig]
    first: dict[Arm, list[dict[str, Scalar]]]
    notes: list[str]


def confirm(
    name: str,
    settings: Settings,
    listen: Callable[[StudyConfig, int | None], contextlib.AbstractContextManager[RunCallback]],
    *,
    top: int = 1,
    seeds: int = 8,
    against: Sequence[str] = (),
    placebo: bool = False,
    stop: threading.Event | None = None,
    offline_ok: bool = False,
    insecure: bool = False,
) -> Confirmation | None:
    """Trains a study's best configurations and their rivals in pairs on fresh seeds, and measures them on the test set.

    What is there is not trained again: every call goes on. Pairs of an earlier call with more of them count as well.

    Args:
        listen: makes the listener of a study that is run: a rival's, or with the number of rows left, of the pairs.
        top: how many configurations.
        seeds: pairs of each of them.
        against: other methods in guidance's place, of `sweep.study.baselines.METHODS`.
        placebo: guide a meaningless twin as well.
        stop, offline_ok, insecure: as for `run`.

    Returns:
        None where it was stopped.

    Raises:
        ConfigError: all that keeps the study from being confirmed so, at once.
        SweepError: as for `run`.
    """
    train = functools.partial(
        run, settings=settings, concluded=False, stop=stop, offline_ok=offline_ok, insecure=insecure
    )
    plan = prepared(name, settings, top=top, against=against)
    found, notes = [], iter(plan.notes)
    with contextlib.ExitStack() as ray:  # one for all, when the first has anything to train
        for arm, rival in plan.rivals.items():
            with listen(rival, None) as listener:
                for said in notes:  # before the first
                    listener.on_message(said)
                if not is_complete(rival, settings, first=plan.first[arm]):
                    ray.enter_context(ray_session(settings.address, rival))
                summary = train(rival, listener=listener, first=plan.first[arm])
            if summary.interrupted:
                return None
            found.append(BaselineResult.of(arm, summary))
        wanted = wanted_pairs(plan.config, plan.top, best_hyperparameters(found), seeds=seeds, placebo=placebo)
        left = len(missing_trials(wanted, [r for r in summarise(name, settings).controls if r.state == "finished"]))
        with listen(plan.config, left) as listener:
            summary = train(plan.config, listener=listener, pairs=wanted)
            if summary.interrupted:
                return None
            confirmation = read(plan, found, summary, settings, placebo=placebo)
            if problem := publish(confirmation, settings):
                listener.on_message(f"tracking: {problem}; the next sweep confirm {name} sends what is missing")
            if problem := keep(confirmation, settings):
                listener.on_message(f"the report will lack it ({problem}); the next sweep confirm {name} keeps it")
    return confirmation


def prepared(name: str, settings: Settings, *, top: int, against: Sequence[str]) -> ConfirmPlan:
    """Checks all that can be wrong, and plans the rest.

    Raises:
        ConfigError: all problems at once.
        SweepError: no such study.
    """
    from ..study.storages.storage import get_user_attr

    load_stored_config(name, settings)
    config, _ = load_study(name, settings)
    knows = len(get_user_attr(name, "knowledge", get_storage(settings.storage)) or [])
    summary = summarise(name, settings)
    best, total = configurations(config, summary.rows), max(len(summary.rows), config.search.trials)
    ended = sum(row.state == "finished" for row in summary.rows)
    rivals: dict[Arm, StudyConfig] = {}
    defaults = {option: parameter.default for option, parameter in options(config.model.name).items()}
    if not (problems := _problems(config, best, defaults, settings, top=top, against=against)):
        rivals = {
            arm: baseline_study(config, arm, ended + knows)
            for arm in ("strongest", *METHODS)
            if arm in ("strongest", *against)
        }
        problems = [f"{arm}: {each}" for arm, study in rivals.items() for each in check_study(study, settings)[0]]
    if problems:
        raise ConfigError(f"confirm {name}", problems)
    first = {arm: first_points(config, best[:top], study, defaults) for arm, study in rivals.items()}
    note = f"{name} is not over: of its {total} trials {ended} have ended, and these are all that is used"
    shown = f"{name} was shown {knows} trials of other studies; each rival has as many more of its own"
    return ConfirmPlan(config, best[:top], rivals, first, [note] * (ended < total) + [shown] * (knows > 0))


def _problems(
    config: StudyConfig,
    best: Sequence[TrialRecord],
    defaults: Mapping[str, object],
    settings: Settings,
    *,
    top: int,
    against: Sequence[str],
) -> list[str]:
    """What keeps a study from being confirmed, the rivals' studies aside."""
    name = config.name
    problems = [
        f"--against: {method!r} is none of {', '.join(METHODS)}{nearest(method, [*METHODS])}"
        for method in against
        if method not in METHODS
    ]
    if OF_CONFIRM in name:
        problems.append(f"{name} is a study of sweep confirm's own; confirm {name.partition(OF_CONFIRM)[0]}")
    elif len(longest := f"{name}{OF_CONFIRM}{max(METHODS, key=len)}") > LONGEST:
        problems.append(f"{name}: the name is {len(longest) - LONGEST} characters too long for studies like {longest}")
    if not best:
        problems.append(f"{name} has no completed trial yet; go on with it: sweep resume {name}")
    elif top > len(best):
        problems.append(f"--top {top}: {name} has {len(best)} configurations that were completed")
    problems += [
        f"--against {method}: the network of trial {row.number} has it already"
        for method in METHODS
        for row in best[:top]
        if method in against and has_already(config, row, method, defaults)
    ]
    if reader(config.data, settings.data, settings.cache).info.num_test < 1:
        problems.append(f"data: {config.data.name} has no test images to measure on")
    return problems


def read(
    plan: ConfirmPlan, found: Sequence[BaselineResult], summary: Summary, settings: Settings, *, placebo: bool
) -> Confirmation:
    """Compares all pairs that there are; reads their metrics from the checkpoints."""
    config, runs, best = plan.config, _Runs(f"{plan.config.name}.controls", settings), best_hyperparameters(found)
    compared: dict[tuple[Arm, Arm], list[PairedComparison]] = {}
    for row in plan.top:
        arms = {
            arm: runs.of(trained(arm, values, summary.controls))
            for arm, values in pair_members(config, row, best, placebo=placebo).items()
        }
        for pair in _opponents([*arms]):
            comparison = compare_pairs(row.number, pair, (arms[pair[0]], arms[pair[1]]), config.objective)
            compared.setdefault(pair, []).append(comparison)
    groups = [apply_holm(group) for group in compared.values()]
    fruitless = [
        f"{each.arm}: none of the {each.trials} trials of {each.study} has completed"
        for each in found
        if each.number is None
    ]
    rows = [row for row in summary.controls if row.kind in ARMS and row.state == "finished"]
    return Confirmation(
        study=config.name,
        metric=f"test_{config.objective.metric.removeprefix('val_')}",
        direction=config.objective.direction,
        configurations={row.number: row.hyperparameters for row in plan.top},
        rivals=list(found),
        comparisons=[comparison for of_each in zip(*groups, strict=True) for comparison in of_each],
        notes=[*plan.notes, *fruitless, *runs.notes()],
        rows=len(rows),
        ended=max(int(1000 * (row.ended or 0.0)) for row in rows),
    )


class _Runs:
    """The members of pairs, by their rows; those that there is nothing to read of are left out, and noted."""

    def __init__(self, sister: str, settings: Settings):
        self._sister, self._settings = sister, settings
        self._read: dict[int, Member | None] = {}
        self._failed: set[int] = set()

    def of(self, rows: Mapping[int, TrialRecord]) -> dict[int, Member]:
        """Members by seed."""
        found = {seed: self._member(row) for seed, row in rows.items()}
        return {seed: member for seed, member in found.items() if member is not None}

    def notes(self) -> list[str]:
        """What was left out."""
        gone = {number for number, member in self._read.items() if member is None}
        return [
            f"{self._sister} {', '.join(map(str, sorted(numbers)))}: {why}; the pairs are left out"
            for numbers, why in ((self._failed, "failed, see sweep status"), (gone, "the checkpoints are gone"))
            if numbers
        ]

    def _member(self, row: TrialRecord) -> Member | None:
        if row.outcome == "failed":
            self._failed.add(row.number)
            return None
        if row.number not in self._read:
            saved = checkpoint.load_latest(self._settings.checkpoints(self._sister, row.number))
            member = None if saved is None else Member(saved.history, diverged=saved.diverged is not None)
            self._read[row.number] = member
        return self._read[row.number]


def _opponents(arms: Sequence[Arm]) -> Iterator[tuple[Arm, Arm]]:
    """The guided network against each of the others, then the others against the plain control."""
    for arm in arms:
        if arm != "guided":
            yield "guided", arm
    for arm in arms:
        if arm not in ("guided", "plain"):
            yield arm, "plain"


def keep(confirmation: Confirmation, settings: Settings) -> str | None:
    """Notes a confirmation with its study, for the report; returns why not, where it cannot."""
    from ..study.storages.storage import UNREACHABLE, set_user_attr

    try:
        set_user_attr(confirmation.study, CONFIRMATION, confirmation.as_data(), get_storage(settings.storage))
    except UNREACHABLE as error:
        return reason(error)
    return None


def publish(confirmation: Confirmation, settings: Settings) -> str | None:
    """Adds a confirmation to the study's own run in MLflow; returns why not, where it cannot."""
    tracker = Tracker.of(confirmation.study, settings)
    try:
        if not tracker.open_existing():
            return f"it has no experiment {confirmation.study}"
    except TrackingError as error:
        return str(error)
    tracker.log_text(None, json.dumps(confirmation.as_data(), indent=2), "confirm.json")
    tracker.log_epochs(None, [confirmation.metrics()])
    tracker.close(status=None, timeout=60)
    return tracker.problem
