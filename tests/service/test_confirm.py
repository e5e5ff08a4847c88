"""`sweep confirm` on a small study, stopped and killed in the middle, and on studies that it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.artifacts import load_text
from optuna.trial import TrialState

from sweep import service
from sweep.analysis.confirmation import BaselineResult, Confirmation
from sweep.config import study_file as studyfile
from sweep.config.errors import ConfigError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.confirm import plan_confirmation, read_confirmation
from sweep.service.maintenance import archive
from sweep.study.records import ARMS, PlannedTrial
from sweep.study.storages.storage import get_user_attr, open_storage, set_user_attr
from sweep.study.study import Study
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig, Package
from ..support import rayless
from ..support.commands import Ended, sweep, sweep_here
from ..support.empty_store import with_store
from ..support.image_files import image_folder
from ..support.invariants import (
    Checkpointed,
    Curves,
    Left,
    assert_whole,
    checkpointed,
    journal,
    left_by,
    strange_curves,
    trained_again,
    trials_of,
)
from ..support.processes import PATIENCE, Command, wait_for

pytestmark = [
    pytest.mark.filterwarnings("default"),  # Ray's and MLflow's own deprecations are not ours
    pytest.mark.timeout(900),
]

STUDY = """
name: pairs
model: {name: mlp}
data: {name: digits, train_size: 400}
objective: {metric: val_accuracy, direction: maximize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: {low: 1, high: 2}
  width: 64
training: {max_epochs: 20, batch_size: 16}
search: {trials: 3, sampler: random, pruner: none, finalists: {top: 0}}
resources: {max_concurrent: 1}
"""
LOCAL = service.RunOptions(executor="local")
SEEDS, EPOCHS = 3, 20
WORDS = ("confirm", "pairs", "--seeds", str(SEEDS), "--placebo", "--json")
MEMBERS = ("guided", "plain", "placebo", "strongest")


@dataclass
class Confirmed:
    """A study that was confirmed, by a command that was killed and one that went on."""

    workspace: Path
    config: StudyConfig
    killed: Command
    safe: Checkpointed
    unfinished: list[optuna.trial.TrialState]
    ended: Ended
    left: Left
    strongest: Left

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.ended.out)
        return data

    def runs(self, arm: str) -> dict[int, dict[str, list[float]]]:
        """Curves by seed, as MLflow has them."""
        of_arm = [run for run in self.left.runs.values() if run.tags.get("sweep.arm") == arm]
        return {int(run.tags["sweep.seed"]): run.curve for run in of_arm}


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Confirmed]:
    workspace = tmp_path_factory.mktemp("confirmed") / "results"
    config, _ = studyfile.parse_study(studyfile.read_yaml(STUDY, "a test"))
    assert config is not None
    search = rayless.start(config, workspace, f"journal:///{workspace}/optuna.journal")
    search.join(PATIENCE)
    assert search.exitcode == 0
    stopped = rayless.start_to_confirm("pairs", workspace, f"journal:///{workspace}/optuna.journal", trials=2)
    stopped.join(PATIENCE)
    assert stopped.exitcode == rayless.STOPPED
    assert trials_of("pairs", journal(workspace))[1] == []
    killed = Command(workspace, *WORDS)
    try:
        wait_for(lambda: killed.over or in_the_middle(killed, workspace), "the middle of a pair")
        assert not killed.over, killed.out
        killed.signal(signal.SIGKILL)
        killed.end()
        safe = checkpointed(workspace, "pairs")
        states = [trial.state for trial in trials_of("pairs", journal(workspace))[1]]
        ended = sweep(workspace, *WORDS)
        assert ended.code == 0, ended.err
        both = left_by(workspace, "pairs"), left_by(workspace, "pairs.confirm.strongest")
        yield Confirmed(workspace, config, killed, safe, states, ended, *both)
    finally:
        killed.close()


def in_the_middle(command: Command, workspace: Path) -> bool:
    """Returns True while members of pairs are trained, after at least one has ended."""
    return bool(command.training()) and any(
        run.startswith("pairs.controls") for run in checkpointed(workspace, "pairs")
    )


def test_pairs_are_trained_once_and_recorded_whole_though_the_first_driver_was_killed(confirmed: Confirmed) -> None:
    assert len(confirmed.unfinished) == SEEDS * len(MEMBERS)
    assert not all(state.is_finished() for state in confirmed.unfinished)
    assert_whole(confirmed.left, "pairs", trials=3, controls=SEEDS * len(MEMBERS))
    assert any(run.startswith("pairs.controls") for run in confirmed.safe)
    kept = checkpointed(confirmed.workspace, "pairs")
    assert trained_again(confirmed.left, confirmed.safe, kept) == []
    kinds = Counter(t.user_attrs["kind"] for t in confirmed.left.controls)
    assert kinds == dict.fromkeys(MEMBERS, SEEDS)
    tags = [confirmed.left.runs[f"pairs.controls-{t.number:04d}"].tags for t in confirmed.left.controls]
    assert {t["sweep.kind"] for t in tags} == {"confirm"}
    assert [t["sweep.arm"] for t in tags] == [t.user_attrs["kind"] for t in confirmed.left.controls]


def test_each_run_is_what_training_gives_with_the_test_set_measured(confirmed: Confirmed, tmp_path: Path) -> None:
    first = dataclasses.replace(confirmed.left, trials=[], controls=confirmed.left.controls[: len(MEMBERS)])
    assert strange_curves(first, Curves(confirmed.config, confirmed.workspace, tmp_path)) == []
    for arm in MEMBERS:
        assert all(len(curve["test_accuracy"]) == EPOCHS for curve in confirmed.runs(arm).values())
    assert not any("test_accuracy" in confirmed.left.runs[f"pairs-{t.number:04d}"].curve for t in confirmed.left.trials)


def test_members_of_a_pair_begin_alike(confirmed: Confirmed) -> None:
    """The same weights, so that the same batches have the same gradients; the strongest control has its own."""
    first = {arm: {seed: c["grad_norm/task"] for seed, c in confirmed.runs(arm).items()} for arm in MEMBERS}
    assert first["plain"].keys() == first["guided"].keys() == first["placebo"].keys() == first["strongest"].keys()
    assert len(first["plain"]) == SEEDS
    curves = {arm: [tuple(c["test_loss"]) for c in confirmed.runs(arm).values()] for arm in MEMBERS}
    assert len({curve for arm in MEMBERS for curve in curves[arm]}) == SEEDS * len(MEMBERS)
    spread = statistics.stdev(c[0] for c in curves["plain"])
    for arm in ("guided", "placebo"):
        apart = [abs(a[0] - b[0]) for a, b in zip(curves[arm], curves["plain"], strict=True)]
        assert max(apart) < spread


def test_the_strongest_control_has_a_search_of_its_own_with_as_many_trials(confirmed: Confirmed) -> None:
    assert_whole(confirmed.strongest, "pairs.confirm.strongest", trials=4, controls=0)
    searched = {"depth", "training.lr", "training.init", "training.lr_schedule"}
    assert [set(t.params) for t in confirmed.strongest.trials] == [searched] * 4
    # The first of its trials is the plain control.
    [plain] = {
        frozenset(t.user_attrs["hyperparameters"].items())
        for t in confirmed.left.controls
        if t.user_attrs["kind"] == "plain"
    }
    as_it_is = {"training.lr": 1e-3, "training.init": "default", "training.lr_schedule": "constant"}
    assert confirmed.strongest.trials[0].params == {"depth": dict(plain)["depth"], **as_it_is}
    best = max(confirmed.strongest.trials, key=lambda t: (t.value or 0.0, -t.number))
    [strongest] = confirmed.data["rivals"]
    assert (strongest["trials"], strongest["completed"], strongest["number"]) == (4, 4, best.number)
    rows = [t.user_attrs["hyperparameters"] for t in confirmed.left.controls if t.user_attrs["kind"] == "strongest"]
    assert rows == [{"lambda1": 0.0, "lambda2": 0.0, "width": 64, **best.params}] * SEEDS
    params = confirmed.left.runs["pairs.controls-0003"].run.data.params
    assert params["training.init"] == best.params["training.init"]


def target_of(curves: list[list[float]]) -> float | None:
    """95 % of the mean improvement of three runs, or less where they differ; t(2) is 4.303 at 97.5 %."""
    start, end = (statistics.fmean(curve[i] for curve in curves) for i in (0, -1))
    best = [max(curve) for curve in curves]
    missed = statistics.fmean(best) - 4.302653 * statistics.stdev(best) * (4 / 3) ** 0.5
    target = min(start + 0.95 * (end - start), missed)
    return target if target > start else None


def arrival(curve: list[float], target: float) -> float:
    """The epoch at which a curve reaches a target, interpolated; all epochs if it never does."""
    epoch = next((e for e, x in enumerate(curve) if x >= target), None)
    if epoch is None:
        return len(curve)
    return 1 if epoch == 0 else epoch + (target - curve[epoch - 1]) / (curve[epoch] - curve[epoch - 1])


def test_what_it_says_is_what_mlflow_holds(confirmed: Confirmed) -> None:
    comparisons = {(c["first"], c["second"]): c for c in confirmed.data["comparisons"]}
    pairs = [("guided", arm) for arm in MEMBERS[1:]] + [(arm, "plain") for arm in MEMBERS[2:]]
    assert list(comparisons) == pairs
    target = target_of([curve["test_accuracy"] for curve in confirmed.runs("plain").values()])
    for (first, second), c in comparisons.items():
        ours, theirs = confirmed.runs(first), confirmed.runs(second)
        assert c["seeds"] == sorted(ours)
        curves = [(ours[seed]["test_accuracy"], theirs[seed]["test_accuracy"]) for seed in sorted(ours)]
        assert c["final"]["values"] == pytest.approx([a[-1] - b[-1] for a, b in curves])
        assert c["best"]["values"] == pytest.approx([max(a) - max(b) for a, b in curves])
        assert c["target"] == (None if target is None else pytest.approx(target))
        times = [] if target is None else [[arrival(curve, target) for curve in pair] for pair in curves]
        assert c["speedup"]["values"] == pytest.approx([late / soon for soon, late in times])
        train = [ours[seed]["train_accuracy"][-1] - ours[seed]["test_accuracy"][-1] for seed in ours]
        assert c["gaps"][0] == pytest.approx(statistics.fmean(train))
    logged = confirmed.left.parent.run.data.metrics
    c = comparisons["guided", "plain"]
    name = f"confirm/{c['number']:04d} guided over plain"
    assert logged[f"{name} final"] == pytest.approx(c["final"]["value"])
    assert logged[f"{name} final_low"] == pytest.approx(c["final"]["low"])
    assert logged.get(f"{name} speedup") == (None if target is None else pytest.approx(c["speedup"]["value"]))
    assert {step for step, *_ in confirmed.left.parent.history[f"{name} final"]} == {SEEDS * len(MEMBERS)}
    uri = confirmed.left.parent.run.info.artifact_uri
    assert json.loads(load_text(f"{uri}/confirm.json")) == confirmed.data


def test_the_report_shows_it(confirmed: Confirmed, tmp_path: Path) -> None:
    page = service.report("pairs", Settings(workspace=confirmed.workspace), tmp_path).page
    rows = re.findall(r"<tr>(.*?)</tr>", page.read_text(), flags=re.DOTALL)
    shown = [re.sub(r"<[^>]+>", " ", row).split() for row in rows if ">guided<" not in row]
    guided = [c for c in confirmed.data["comparisons"] if c["first"] == "guided"]
    assert len(guided) == len(MEMBERS) - 1
    for c in guided:
        levels = [f"{level:.4g}" for level in c["levels"]]
        [row] = [words for words in shown if words[:5] == [str(c["number"]), c["second"], str(SEEDS), *levels]]
        assert row[5] == f"{c['final']['value']:+.3g}"
        assert " ".join(row).endswith(c["verdict"])


def test_a_copy_of_the_study_has_it_too_and_says_where_better_ones_were_found_since(
    confirmed: Confirmed, tmp_path: Path
) -> None:
    there = Settings(workspace=tmp_path / "there")
    archive.export_study("pairs", tmp_path / "pairs.zip", Settings(workspace=confirmed.workspace))
    archive.import_study(tmp_path / "pairs.zip", there)

    def page() -> str:
        return service.report("pairs", there, tmp_path / "report").page.read_text()

    assert "On the test set" in page()
    assert "better configurations since" not in page()
    storage = open_storage(there.storage)
    found = get_user_attr("pairs", "confirmation", storage)
    assert found == confirmed.data
    set_user_attr("pairs", "confirmation", {**found, "configurations": {"999": {}}}, storage)
    assert "better configurations since" in page()


def test_a_result_that_cannot_be_kept_for_the_report_is_shown_all_the_same(
    confirmed: Confirmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sweep.study.storages.storage.set_user_attr", full)
    words = ("confirm", "pairs", "--seeds", "1", "--placebo", "--json")
    ended = sweep_here(monkeypatch, capsys, confirmed.workspace, *words)
    assert (ended.code, json.loads(ended.out)) == (0, confirmed.data)
    assert "the report will lack it" in ended.err


def test_a_second_call_trains_nothing_and_pairs_that_are_there_count(
    confirmed: Confirmed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("confirm", "pairs", "--seeds", "1", "--placebo", "--json")
    again = sweep_here(monkeypatch, capsys, confirmed.workspace, *words)
    assert (again.code, json.loads(again.out)) == (0, confirmed.data)
    left = left_by(confirmed.workspace, "pairs")
    assert_whole(left, "pairs", trials=3, controls=SEEDS * len(MEMBERS))
    assert all(len(values) == 1 for values in left.parent.history.values())


def test_an_interrupted_study_is_confirmed_as_it_is_and_stays_interrupted(
    study_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rayless.without_models(monkeypatch)
    config = study_config(search={"trials": 3, "sampler": "random", "finalists": {"top": 0}})
    settings = Settings(workspace=with_store(tmp_path / "results"))
    impatient, told = rayless.Impatient(trials=2), rayless.Listener()
    assert service.run(
        config, settings, impatient, service.RunOptions(stop=impatient.stop, executor="local")
    ).interrupted
    done = service.confirm(config.name, settings, lambda *_: contextlib.nullcontext(told), seeds=2, options=LOCAL)
    note = f"{config.name} is not finished: 2 of its 3 trials have ended, and only these are used"
    assert done is not None
    assert told.said == done.notes == [note]
    [strongest] = done.baselines
    assert strongest.trials == 3, "as many, and the plain control"
    left = left_by(settings.workspace, config.name)
    assert left.parent.run.info.status == "KILLED"
    assert [trial.state for trial in left.trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.WAITING]
    assert {trial.state for trial in left.controls} == {TrialState.COMPLETE}
    service.run(config, settings, told, LOCAL)
    assert_whole(left_by(settings.workspace, config.name), config.name, trials=3, controls=6)


def test_a_run_that_goes_on_meanwhile_keeps_the_studys_own_run(
    study_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rayless.without_models(monkeypatch)
    config = study_config(search={"trials": 2, "sampler": "random", "finalists": {"top": 0}})
    settings, told = Settings(workspace=with_store(tmp_path / "results")), rayless.Listener()
    impatient = rayless.Impatient(trials=1)
    assert service.run(
        config, settings, impatient, service.RunOptions(stop=impatient.stop, executor="local")
    ).interrupted
    running = Study(config, open_storage(settings.storage), workspace=settings.workspace).ask()  # this process lives
    assert running is not None
    done = service.confirm(config.name, settings, lambda *_: contextlib.nullcontext(told), seeds=1, options=LOCAL)
    assert done is not None
    left = left_by(settings.workspace, config.name)
    assert left.parent.run.info.status == "RUNNING"
    assert [trial.state for trial in left.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert {trial.state for trial in left.controls} == {TrialState.COMPLETE}


def test_interrupted_it_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(service, "confirm", lambda *_, **__: None)  # as it returns where it was stopped
    words = "confirm tiny --top 2 --seeds 4 --against dropout,orthogonal --placebo"
    ended = sweep_here(monkeypatch, capsys, tmp_path, *words.split())
    assert ended.code == 130
    assert ended.out.splitlines()[-1].strip() == f"sweep {words} --workspace {tmp_path}"


# -- studies made by hand ----------------------------------------------------------------------------------------------

Told = Callable[..., Settings]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """Makes a study of which so many trials have ended, with these values of the objective; None: it has failed."""

    def make(config: StudyConfig, values: Sequence[float | None], **places: Path) -> Settings:
        settings = Settings(workspace=tmp_path / "results", **places)  # type: ignore[arg-type]
        study = Study(config, open_storage(settings.storage), workspace=settings.workspace)
        study.enqueue_budget()
        for value in values:
            trial = study.ask()
            assert trial is not None
            last = config.training.max_epochs
            if value is not None:
                study.report(trial, [EpochMetrics(e, {config.objective.metric: value}, 0) for e in range(1, last + 1)])
            study.tell(trial, "completed" if value is not None else "failed", checkpoint=None, error=None)
        return settings

    return make


def refused(config: StudyConfig, settings: Settings, *, top: int = 1, against: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        plan_confirmation(config.name, settings, top=top, against=against)
    return refusal.value.problems


def test_a_study_without_completed_trials_is_refused(study_config: MakeConfig, told: Told) -> None:
    config = study_config()
    for values in ([], [None]):
        settings = told(config, values)
        assert refused(config, settings) == [
            f"{config.name} has no completed trial yet; to go on: sweep resume {config.name}"
        ]


def test_more_configurations_than_there_are_are_refused(study_config: MakeConfig, told: Told) -> None:
    config = study_config(space={"lambda1": {"choices": [0.1, 0.2]}, "depth": 1, "width": 4})
    settings = told(config, [0.5, 0.4, 0.3, 0.2, None])
    rows = Study(config, open_storage(settings.storage), workspace=settings.workspace).rows()
    different = len({row.hyperparameters["lambda1"] for row in rows if row.value is not None})
    assert refused(config, settings, top=3) == [f"--top 3: {config.name} has {different} completed configurations"]


def test_baselines_of_a_study_that_was_shown_others_have_as_many_more_trials(
    study_config: MakeConfig, told: Told
) -> None:
    config = study_config(search={"trials": 2})
    settings = told(config, [0.5, 0.4])
    known = {"outcome": "completed", "value": 0.3, "params": {"lambda1": 0.01}, "intermediate": {}}
    study = Study(config, open_storage(settings.storage), workspace=settings.workspace)
    study.add_prior_trials([{"trial": f"earlier-{n:04d}", **known} for n in range(3)])
    plan = plan_confirmation(config.name, settings, top=1, against=["dropout"])
    assert {arm: study.search.trials for arm, study in plan.baselines.items()} == {"strongest": 5, "dropout": 5}
    assert plan.notes == [
        f"the sampler of {config.name} was shown 3 trials of other studies; each baseline gets as many more"
    ]


def test_a_data_set_without_test_images_is_refused(study_config: MakeConfig, told: Told, tmp_path: Path) -> None:
    image_folder(tmp_path / "data" / "photos", {"train": (5, 5, 5)})
    for name in "abc":
        (tmp_path / "data" / "photos" / "test" / name).mkdir(parents=True)
    config = study_config(data={"name": "imagefolder", "folder": "photos", "image_size": 8, "val_fraction": 0.3})
    settings = told(config, [0.5], data=tmp_path / "data")
    assert refused(config, settings) == ["data: imagefolder has no test images to measure on"]


NET = """
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self, depth, width, in_shape, num_outputs):
            size = in_shape[0] * in_shape[1] * in_shape[2]
            super().__init__(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, num_outputs))
"""


def test_methods_that_the_model_has_not_are_refused(
    study_config: MakeConfig, told: Told, write_package: Package
) -> None:
    config = study_config(
        model={"name": f"{write_package(net=NET)}.net:Net"},
        space={"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": 1, "width": 4},
    )
    problems = refused(config, told(config, [0.5]), against=["batch_norm", "orthogonal", "dropout"])
    assert [problem.partition(": ")[0] for problem in problems] == ["dropout", "batch_norm"]
    assert all("has no such option" in problem for problem in problems)


def test_a_method_that_the_network_has_already_is_refused(study_config: MakeConfig, told: Told) -> None:
    config = study_config(
        model={"name": "resnet", "depth": 20, "width": 4},
        space={"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "training.init": "he"},
    )
    settings = told(config, [0.5])
    problems = refused(config, settings, against=["batch_norm", "orthogonal", "he"])
    assert problems == [
        f"--against {method}: the network of trial 0 uses it already" for method in ("batch_norm", "he")
    ]


def test_studies_of_its_own_and_names_too_long_are_refused(
    study_config: MakeConfig, told: Told, study_name: str
) -> None:
    own = study_config(name=f"{study_name}.confirm.dropout")
    assert refused(own, told(own, [0.5])) == [f"{own.name} was made by sweep confirm; confirm {study_name}"]
    long = study_config(name=f"{study_name}{'x' * 70}")
    [problem] = refused(long, told(long, [0.5]))
    assert "too long for studies like" in problem


def test_a_study_that_is_not_over_is_confirmed_as_far_as_it_is(study_config: MakeConfig, told: Told) -> None:
    config = study_config(search={"trials": 6, "design": 5, "sampler": "random"})
    settings = told(config, [0.5, 0.3, 0.4, None])
    plan = plan_confirmation(config.name, settings, top=2, against=["orthogonal"])
    assert [row.number for row in plan.top] == [1, 2]
    assert plan.notes == [f"{config.name} is not finished: 4 of its 6 trials have ended, and only these are used"]
    # Rivals have as many trials as the search has had, and as many finalists.
    assert plan.baselines["strongest"].search.finalists.top == config.search.finalists.top
    assert {arm: (s.search.trials, s.search.design) for arm, s in plan.baselines.items()} == {
        "strongest": (4, 4),
        "orthogonal": (1, 1),
    }
    whole = told(config, [0.2, 0.1])
    assert plan_confirmation(config.name, whole, top=1, against=[]).notes == []


def test_runs_that_failed_or_lost_their_checkpoints_are_named(
    study_config: MakeConfig, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = study_config()
    settings = told(config, [0.5, 0.4, 0.3, 0.2, 0.1, 0.6])
    plan = plan_confirmation(config.name, settings, top=1, against=[])
    pairs: list[PlannedTrial] = [("guided", 4, seed, plan.top[0].hyperparameters) for seed in (10_000, 10_001)]
    storage = open_storage(settings.storage)
    sister = Study(config, storage, workspace=settings.workspace, sister=True, pairs=pairs)
    sister.add(pairs)
    for outcome in ("failed", "completed"):
        trial = sister.ask()
        assert trial is not None
        assert trial.config.test
        trial.best = 0.5
        sister.tell(trial, outcome, checkpoint=None, error="broken")  # type: ignore[arg-type]
    summary = service.summarise(config.name, settings)
    found = [BaselineResult("strongest", "other", 6, 0, None, {})]
    concluded = read_confirmation(plan, found, summary, settings, placebo=False)
    assert concluded.notes == [
        "strongest: none of the 6 trials of other has completed",
        f"{config.name}.controls 0: failed, see sweep status; the pairs are left out",
        f"{config.name}.controls 1: the checkpoints are gone; the pairs are left out",
    ]
    assert concluded.missing == [f"{config.name}.controls-0000"]
    assert Confirmation.from_data(json.loads(json.dumps(concluded.as_data()))).missing == concluded.missing
    monkeypatch.setattr(service, "confirm", lambda *_, **__: concluded)
    ended = sweep_here(monkeypatch, capsys, settings.workspace, "confirm", config.name)
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == (
        f"Incomplete: 1 member of pairs failed ({config.name}.controls-0000). Go on with: sweep retry {config.name} "
        f"--workspace {settings.workspace}; then confirm again"
    )
    [comparison] = concluded.comparisons
    assert (comparison.first, comparison.second, comparison.seeds) == ("guided", "plain", ())
    assert concluded.as_data()["comparisons"][0]["final"]["value"] is None
    assert concluded.metrics().values == {}
    assert set(ARMS) >= {"guided", "plain"}
