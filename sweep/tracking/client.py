"""One MLflow experiment: finds or creates it and its runs, and sends what they lack. Every call waits.

MLflow is imported at the first connection (2 s).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING

from filelock import FileLock

from ..config.errors import TrackingError
from ..config.filesystem import AnyPath, local_path
from ..config.secrets import without_secrets
from ..config.settings import NO_DATABASE, Settings
from ..config.sqlite import sqlite_file
from . import database
from .errors import collect_refusals, innermost_reason, is_closed_connection, store_errors
from .mlflow_internals import ENVIRONMENT, connect
from .runs import KnownRun, PendingRun, RunKey, make_params, make_tags, new_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

StartedTrials = Callable[[], Set[tuple[str, int]]]

BATCH = 1_000  # entities a call, MLflow's limit
ID, OWNER = "sweep.id", "sweep.owner"  # tags of an experiment
KINDS = {"trial", "control", "finalist", "confirm"}  # kinds of runs whose trials are in the study's storage
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}  # MLflow's error codes


class MlflowStore:
    """One experiment, on a server or in a database that this process opens, and its runs that are known so far.

    Attributes:
        found: the runs of trials that were listed at the last `begin`.
        was_finished: True if the study's own run was FINISHED then.
        exclusive: keeps the study's drivers on other hosts out: two at once would both create what is missing.
    """

    def __init__(self, uri: str, study: str, artifacts: AnyPath, experiment: str = "", study_id: str | None = None):
        if not uri:
            raise TrackingError(NO_DATABASE)
        self.uri, self.study, self.experiment = uri, study, experiment or study
        self.name = f"MLflow at {without_secrets(uri)}"
        self.experiment_id, self._study_id = "", study_id
        self.experiment_tags: dict[str, str] = {}
        self.found: dict[RunKey, KnownRun] = {}
        self.was_finished = False
        self.exclusive: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._known: dict[RunKey | None, KnownRun] = {}
        self._artifacts = artifacts
        self._remote = uri.startswith(("http:", "https:", "databricks"))
        self._file = sqlite_file(uri)
        self._connection: MlflowClient | None = None
        self._environment: list[str] = []

    @classmethod
    def of(cls, study: str, settings: Settings, study_id: str | None = None) -> MlflowStore:
        """Returns a study's store with the user's settings; raises `TrackingError` if they name none."""
        return cls(settings.tracking_uri, study, settings.artifacts, settings.experiment(study), study_id)

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
        self._study_id = experiment_tags.get(ID)
        self.find_experiment(create=True)  # raises if the server is unreachable, which must not keep the study locked
        first = not self.experiment_id
        with self.exclusive() if first else contextlib.nullcontext(), self._explained(), self._exclusive():
            existing, client = self._find(), self._client()
            if existing is None:
                # MLflow's default location is relative to the current folder.
                location = None if self._remote else self._artifacts.absolute().as_uri()
                self.experiment_id = client.create_experiment(self.experiment, artifact_location=location)
            else:
                self.experiment_id = existing
                if self.experiment_tags.get(ID, experiment_tags.get(ID)) != experiment_tags.get(ID):
                    owner = self.experiment_tags.get(OWNER)
                    raise self._foreign(f"is another study's of this name{f', which {owner} owns' if owner else ''}")
                self._list_runs(client)
                if started_trials is not None:
                    self._check_foreign_runs(started_trials(), same=ID in self.experiment_tags)
            for name, value in experiment_tags.items():
                if name != OWNER or name not in self.experiment_tags:  # its first owner stays
                    client.set_experiment_tag(self.experiment_id, name, value)
            self.send(PendingRun(None, time.time_ns() // 1_000_000, params=dict(params), tags=tags))
        if "MLFLOW_HTTP_REQUEST_TIMEOUT" in self._environment:  # from here on the recorder's thread alone waits
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "30"  # files may be large

    def open_existing(self) -> bool:
        """Finds the experiment and its parent run, which stays as it is; returns False if there is none."""
        if (existing := self.find_experiment()) is None:
            return False
        self.experiment_id, order = existing, ["attributes.start_time ASC"]
        with self._explained():
            found = self._client().search_runs([existing], "tags.`sweep.kind` = 'study'", max_results=1, order_by=order)
        if found:
            self._known[None] = KnownRun.of(found[0])
        return bool(found)

    def find_experiment(self, *, create: bool = False) -> str | None:
        """Connects, and returns the experiment's id if it exists; ``create`` makes a missing SQLite store.

        Raises `TrackingError` if the server is unreachable or refuses, or the experiment was deleted.
        """
        if not create and self._file is not None and not database.is_made(self._file):
            return None
        with self._explained(), contextlib.nullcontext() if self._remote else self._exclusive():
            return self._find()

    def _find(self) -> str | None:
        """Finds the experiment by the study's id, since a user may have renamed it, else by its name."""
        client, wanted = self._client(), f"tags.`{ID}` = '{self._study_id}'"
        own = client.search_experiments(filter_string=wanted, max_results=1) if self._study_id else []
        found = own[0] if own else client.get_experiment_by_name(self.experiment)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            restore, rename = (self._command(name, found.experiment_id) for name in ("restore", "rename"))
            raise TrackingError(
                f"the MLflow experiment {self.experiment!r} was deleted. Restore it:\n  {restore}\n"
                f"and, to begin anew under this name, rename the restored one:\n  {rename}\n"
                "or give the study another name"
            )
        self.experiment_tags = dict(found.tags)
        return str(found.experiment_id)

    def _check_foreign_runs(self, started: Set[tuple[str, int]], *, same: bool) -> None:
        """Refuses an experiment with runs of unknown trials, which trials of the ``same`` study would write to."""
        if foreign := [k.name for k in self.found if k.kind in KINDS and (k.study, k.number) not in started]:
            what = f"has {len(foreign)} runs of trials that the storage does not have ({min(foreign)}, ...)"
            other, backup = (
                "it is another study's",
                "the storage was set back to a backup, or a copy of the study has trained them",
            )
            raise self._foreign(f"{what}: {backup if same else other}")

    def _foreign(self, what: str) -> TrackingError:
        return TrackingError(
            f"the MLflow experiment {self.experiment!r} {what}. Give yours another name (--set name=...), or a prefix "
            "(SWEEP_EXPERIMENT_PREFIX) or, to begin anew, rename the experiment:\n  "
            f"{self._command('rename', self.experiment_id)}"
        )

    def _command(self, command: str, experiment_id: str) -> str:
        """Returns MLflow's command that restores or renames an experiment."""
        new_name = f" --new-name {self.experiment}-old" if command == "rename" else ""
        uri = without_secrets(self.uri)
        return f"MLFLOW_TRACKING_URI='{uri}' mlflow experiments {command} --experiment-id {experiment_id}{new_name}"

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
        for found in runs.values():
            found.sort(key=_rank)
        self._known = {key: KnownRun.of(found[0]) for key, found in runs.items()}
        self.found = {key: run for key, run in self._known.items() if key is not None}
        self.was_finished |= None in runs and self._known[None].status == "FINISHED"
        for key, known in self.found.items():
            for duplicate in runs[key][1:] if known.outcome else ():
                client.delete_run(duplicate.info.run_id)

    def send(self, work: PendingRun) -> list[Exception]:
        """Sends a run's work in as few calls as MLflow allows: values, uploads, outcome, status.

        Returns the errors of parts that MLflow refused for good; the rest was sent. Raises all others: the work can
        then be sent again, and is stored once; it is at once if the server had closed the connection meanwhile.
        """
        try:
            return self._send(work)
        except Exception as error:
            if not is_closed_connection(error):
                raise
            work.search = True  # its run may have been created
            return self._send(work)

    def _send(self, work: PendingRun) -> list[Exception]:
        client, refused = self._client(), list[Exception]()
        if work.deleted and (replaced := self._known.pop(work.key, None)):
            client.delete_run(replaced.run_id)
        work.deleted, run = False, self._known.get(work.key)
        with collect_refusals(refused):
            run = run or self._open_run(client, work)
            if run is not None:
                self._log_values(client, run, work)
        if run is None:  # never started, so that there is nothing to end, or its creation was refused
            return refused
        run.incomplete |= bool(refused)
        work.params, work.tags, work.epochs, work.metrics = {}, {}, [], {}
        while work.jobs:
            with collect_refusals(refused):
                work.jobs[0](client, run.run_id)
            del work.jobs[0]
        with collect_refusals(refused):
            self._end(client, run, work)
        return refused

    def _open_run(self, client: MlflowClient, work: PendingRun) -> KnownRun | None:
        """Finds or creates a run. Returns None if the trial was never started, so that it has none."""
        key, tags, name = work.key, work.tags, self.study
        if key is not None:
            tags, name = {**tags, **key.tags, "mlflow.parentRunId": self._known[None].run_id}, key.name
            # Without a start time another driver has started it.
            wanted = work.search or work.start_time is None
            if wanted and (found := self._search(client, self.experiment_id, key)):
                self._known[key] = KnownRun.of(found[0])
                return self._known[key]
        if work.start_time is None:
            if work.jobs:
                raise LookupError(f"MLflow has no run {name}")
            return None
        shortened = {tag.key: tag.value for tag in make_tags(tags)}
        run = client.create_run(self.experiment_id, start_time=work.start_time, tags=shortened, run_name=name)
        # A creation whose answer was lost may still be under way when the search finds nothing.
        known = KnownRun(run.info.run_id, "RUNNING", work.start_time, may_have_duplicate=work.search)
        self._known[key], work.tags = known, {}
        return known

    def _log_values(self, client: MlflowClient, run: KnownRun, work: PendingRun) -> None:
        """Logs params, metrics and tags; in the same call the end's tags, if they fit."""
        if work.start_time is not None and work.end is None and run.status != "RUNNING":
            client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"
        metrics = new_metrics(work, run)
        params = [param for param in make_params(work.params) if param.key not in run.params]
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
        if not (unfinished and "sweep.outcome" in client.get_run(run.run_id).data.tags):
            run.status, end_time = work.end
            client.set_terminated(run.run_id, run.status, end_time)
        if work.key is not None and run.may_have_duplicate:
            for other in self._search(client, self.experiment_id, work.key):
                if other.info.run_id != run.run_id and "sweep.outcome" not in other.data.tags:
                    client.delete_run(other.info.run_id)
            run.may_have_duplicate = False

    def explain(self, error: BaseException) -> str:
        """Returns a message about a store that is unreachable or refuses access: the reason and the cure."""
        reason = innermost_reason(error, self.uri)
        if "Invalid Host header" in reason:
            advice = "give this name to sweep services up --name NAME, or to mlflow server --allowed-hosts"
            return f"{self.name} does not accept the host name in its address ({reason}); {advice}"
        if getattr(error, "error_code", "") in REFUSALS:
            advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that may write there"
            return f"{self.name} refuses access ({reason}); {advice}"
        advice = "start the server or correct MLFLOW_TRACKING_URI" if self._remote else "check that it can be written"
        return f"{self.name} is unreachable ({reason}); {advice}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises the errors of a store as `TrackingError`."""
        try:
            yield
        except store_errors() as error:
            raise TrackingError(self.explain(error)) from None

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Excludes the workspace's other drivers: two that start together would both create what is missing."""
        folder = (self._file or local_path(self._artifacts.absolute())).parent
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "tracking.lock"):
            yield

    def _client(self) -> MlflowClient:
        if self._connection is None:
            for name in ENVIRONMENT.keys() - os.environ.keys():
                os.environ[name] = ENVIRONMENT[name]
                self._environment.append(name)
            if self._file is not None:
                if not database.is_made(self._file):
                    database.make(self._file, self._artifacts)
                elif self._file.absolute().parent == self._artifacts.absolute().parent:
                    database.relocate_artifacts(self._file, self._artifacts)
            self._connection = connect(self.uri, remote=self._remote)
        return self._connection

    def close(self) -> None:
        """Restores the process's environment."""
        for name in self._environment:
            os.environ.pop(name, None)
        self._environment.clear()


def _rank(run: Run) -> tuple[bool, int, str]:
    """Sorts a trial's runs: one with an outcome first, then the oldest."""
    return "sweep.outcome" not in run.data.tags, run.info.start_time, run.info.run_id


def create_store(uri: str, artifacts: AnyPath) -> None:
    """Creates an SQLite store that is missing, before a server and a driver do so at once; see `database`."""
    if sqlite_file(uri) is not None:
        MlflowStore(uri, "Default", artifacts).find_experiment(create=True)
