"""The runs of an MLflow experiment: finds or creates them, and sends what they lack. Every call waits.

MLflow is imported at the first connection (2 s).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from ..config.filesystem import AnyPath
from .errors import classify_error
from .experiment import OWNER, Experiment
from .mlflow_internals import last_steps
from .runs import PARAM_LENGTH, KnownRun, PendingRun, RunKey, RunState, make_tags, new_metrics, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set

    from mlflow import MlflowClient
    from mlflow.entities import Run

    StartedTrials = Callable[[], Set[tuple[str, int]]]

BATCH = 1_000  # entities a call, MLflow's limit

KINDS = {"trial", "control", "finalist", "confirm"}  # of runs whose trials are in the study's storage


class MlflowStore(Experiment):
    """The runs of one experiment, as far as this process knows them; ``found`` are those listed at the last `begin`."""

    def __init__(self, uri: str, study: str, artifacts: AnyPath, experiment: str | None = None):
        super().__init__(uri, study, artifacts, experiment)
        self.found: dict[RunKey, RunState] = {}
        self.was_finished = False
        self._known: dict[RunKey | None, KnownRun] = {}

    def begin(
        self,
        description: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        experiment_tags: Mapping[str, str],
        started_trials: StartedTrials | None,
    ) -> None:
        """Finds or creates the experiment and the parent run, sets it RUNNING, and lists the experiment's runs.

        Called once more after each outage; arguments as of `Tracker.open`, ``started_trials`` called after the listing.
        """
        tags = {**tags, "sweep.study": self.study, "sweep.kind": "study", "mlflow.note.content": description}
        with self._explained(), self._exclusive():
            existing, client = self._find(), self._client()
            if existing is None:
                # MLflow's default location is relative to the current folder.
                location = None if self._remote else self._artifacts.absolute().as_uri()
                self.experiment_id = client.create_experiment(self.experiment, artifact_location=location)
            else:
                self.experiment_id = existing
                self._check_study_id(experiment_tags)
                self._list_runs(client)
                if started_trials is not None:
                    self._check_foreign_runs(started_trials())
            for name, value in experiment_tags.items():
                if name != OWNER or name not in self.experiment_tags:  # its first owner stays
                    client.set_experiment_tag(self.experiment_id, name, value)
            self.send(PendingRun(None, time.time_ns() // 1_000_000, params=dict(params), tags=tags))
        if "MLFLOW_HTTP_REQUEST_TIMEOUT" in self._environment:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "30"  # from here on nobody waits, and files may be large

    def open_existing(self) -> bool:
        """Finds the experiment and its parent run, which stays as it is; returns False if there is none."""
        if (existing := self.find_experiment()) is None:
            return False
        self.experiment_id, order = existing, ["attributes.start_time ASC"]
        with self._explained():
            found = self._client().search_runs([existing], "tags.`sweep.kind` = 'study'", max_results=1, order_by=order)
        if found:
            self._known[None] = _known_run(found[0])
        return bool(found)

    def _check_foreign_runs(self, started: Set[tuple[str, int]]) -> None:
        """Refuses an experiment with runs of unknown trials, which this study's trials would write to."""
        if foreign := [k.name for k in self.found if k.kind in KINDS and (k.study, k.number) not in started]:
            what = f"has {len(foreign)} runs of trials that the storage does not have ({min(foreign)}, ...)"
            raise self._foreign(f"{what}: it is another study's")

    def find_runs(self, experiment_id: str, keys: Iterable[RunKey]) -> dict[RunKey, str]:
        """Returns the ids of the runs that the server has, one search each (4 ms)."""
        with self._explained():
            found = {key: self._search(self._client(), experiment_id, key) for key in keys}
        return {key: runs[0].info.run_id for key, runs in found.items() if runs}

    def _search(self, client: MlflowClient, experiment_id: str, key: RunKey) -> list[Run]:
        """Returns the runs of a trial, the valid one first; there is a second if two creations crossed."""
        filters = " and ".join(f"tags.`{name}` = '{value}'" for name, value in key.tags.items())
        return sorted(client.search_runs([experiment_id], filters, max_results=10), key=_rank)

    def _list_runs(self, client: MlflowClient) -> None:
        """Reads all runs of the experiment that this service made; deletes incomplete duplicates of ended trials."""
        runs: dict[RunKey | None, list[Run]] = defaultdict(list)
        token: str | None = None
        while token is None or token:
            page = client.search_runs([self.experiment_id], max_results=1_000, page_token=token)
            for run in page:
                tags = run.data.tags
                if tags.get("sweep.kind") == "study":
                    runs[None].append(run)
                elif {"sweep.study", "sweep.kind", "sweep.trial"} <= tags.keys():
                    runs[RunKey(tags["sweep.study"], tags["sweep.kind"], int(tags["sweep.trial"]))].append(run)
            token = page.token or ""
        self._known, self.found = {}, {}
        for key, found in runs.items():
            chosen, *others = sorted(found, key=_rank)
            self._known[key] = _known_run(chosen)
            if key is None:
                self.was_finished |= chosen.info.status == "FINISHED"
                continue
            self.found[key] = RunState(chosen.info.run_id, _outcome(chosen), chosen.info.status)
            for other in others if _outcome(chosen) else ():
                client.delete_run(other.info.run_id)

    def send(self, work: PendingRun) -> list[Exception]:
        """Sends a run's work in as few calls as MLflow allows: values, uploads, outcome, status.

        Returns the errors of parts that MLflow refused for good; the rest was sent. Raises all others: the work can
        then be sent again, and is stored once.
        """
        client, run, refused = self._client(), self._known.get(work.key), list[Exception]()
        with _collect_refusals(refused):
            run = run or self._open_run(client, work)
            if run is None:  # claimed and never started: nothing to end
                return refused
            self._log_values(client, run, work)
        if run is None:  # its creation was refused
            return refused
        run.incomplete |= bool(refused)
        work.params, work.tags, work.epochs, work.metrics = {}, {}, [], {}
        while work.jobs:
            with _collect_refusals(refused):
                work.jobs[0](client, run.run_id)
            del work.jobs[0]
        with _collect_refusals(refused):
            self._end(client, run, work)
        return refused

    def _open_run(self, client: MlflowClient, work: PendingRun) -> KnownRun | None:
        """Finds or creates a run. Returns None if the trial was never started, so that it has none."""
        key, tags = work.key, work.tags
        if key is not None:
            tags = {**tags, **key.tags, "mlflow.parentRunId": self._known[None].run_id}
            # Without a start time another driver has started it.
            wanted = work.search or work.start_time is None
            if wanted and (found := self._search(client, self.experiment_id, key)):
                self._known[key] = _known_run(found[0])
                return self._known[key]
        if work.start_time is None:
            if work.jobs:
                raise LookupError(f"MLflow has no run {key.name if key else self.study}")
            return None
        shortened, name = {tag.key: tag.value for tag in make_tags(tags)}, key.name if key else self.study
        run = client.create_run(self.experiment_id, start_time=work.start_time, tags=shortened, run_name=name)
        # A creation whose answer was lost may still be under way when the search finds nothing.
        known = KnownRun(run.info.run_id, "RUNNING", work.start_time, may_have_duplicate=work.search)
        self._known[key], work.tags = known, {}
        return known

    def _log_values(self, client: MlflowClient, run: KnownRun, work: PendingRun) -> None:
        """Logs params, metrics and tags; in the same call the end's tags, if they fit."""
        from mlflow.entities import Param

        if work.start_time is not None and work.end is None and run.status != "RUNNING":
            client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"
        metrics = new_metrics(work, run)
        params = [Param(n, shorten(value, PARAM_LENGTH)) for n, value in work.params.items() if n not in run.params]
        tags, end_tags = make_tags(work.tags), [] if run.incomplete or work.jobs else make_tags(work.end_tags)
        # Within a call MLflow stores params, then metrics, then tags; of several calls the end's comes last.
        if len(params) > 100 or len(metrics) + len(params) + len(tags) + len(end_tags) > BATCH:
            end_tags = []
        if metrics or params or tags or end_tags:
            client.log_batch(run.run_id, metrics, params, tags + end_tags)
        if end_tags:
            work.end_tags = {}
        run.params |= work.params.keys()
        run.metrics |= {metric.key: metric.step for metric in sorted(metrics, key=lambda metric: metric.step)}

    def _end(self, client: MlflowClient, run: KnownRun, work: PendingRun) -> None:
        """Writes the outcome and the status, and deletes a duplicate."""
        if run.incomplete:
            work.end_tags.pop("sweep.outcome", None)  # so that the study's next run sends the rest
        if work.end_tags:
            client.log_batch(run.run_id, tags=make_tags(work.end_tags))
        if work.end is None:
            return
        # Another driver may have adopted and ended a trial that this one leaves unfinished.
        unfinished = work.key is not None and work.end[0] == "KILLED"
        if not (unfinished and _outcome(client.get_run(run.run_id))):
            run.status, end_time = work.end
            client.set_terminated(run.run_id, run.status, end_time)
        if work.key is not None and run.may_have_duplicate:
            for duplicate in self._search(client, self.experiment_id, work.key):
                if duplicate.info.run_id != run.run_id and not _outcome(duplicate):
                    client.delete_run(duplicate.info.run_id)
            run.may_have_duplicate = False


@contextlib.contextmanager
def _collect_refusals(refused: list[Exception]) -> Iterator[None]:
    """Collects an error that no other attempt mends, so that the rest can be sent."""
    try:
        yield
    except Exception as error:
        if classify_error(error) != "refused":
            raise
        refused.append(error)


def _outcome(run: Run) -> str | None:
    outcome: str | None = run.data.tags.get("sweep.outcome")
    return outcome


def _rank(run: Run) -> tuple[bool, int, str]:
    """Sorts a trial's runs: one with an outcome first, then the oldest."""
    return not _outcome(run), run.info.start_time, run.info.run_id


def _known_run(run: Run) -> KnownRun:
    return KnownRun(run.info.run_id, run.info.status, run.info.start_time, set(run.data.params), last_steps(run))
