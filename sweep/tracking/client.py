"""A study's runs on an MLflow server: finds or creates them and sends what they still lack. Every call waits.

The recorder of `sweep.tracking.tracker` calls it from its own thread; MLflow is imported at the first connection (2 s).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from ..config.errors import TrackingError, without_password
from ..config.filesystem import AnyPath, local_path
from ..config.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run, RunTag

    from ..training.reports import EpochMetrics

    Taken = Callable[[], Set[tuple[str, int]]]

SQLITE = "sqlite:///"
PARAM_LENGTH, TAG_LENGTH = 1_000, 5_000  # characters; 100 of each then stay below MLflow's 1 MB a call
BATCH = 1_000  # entities a call, MLflow's limit

ID, OWNER = "sweep.id", "sweep.owner"  # tags of an experiment
KINDS = {"trial", "control", "finalist", "confirm"}  # of runs whose trials are in the study's storage

# Errors that another attempt cannot mend.
FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
# What MLflow makes of most errors of its own database, such as a pool without a free connection: they pass.
DATABASE_ERROR = "BAD_REQUEST"
PASSING = {401, 403, 408, 425, 429}  # of HTTP, beside 5xx: the server is there, but takes nothing from us now
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}

# MLflow's defaults retry for minutes, print two lines a run and call home. The user's own values win.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the recorder retries by itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class RunKey:
    """What makes a trial's run unique in its experiment; kept in the run's tags from its creation on.

    Attributes:
        study: name of the Optuna study that the trial is in.
        kind: ``trial``, ``control``, ``finalist`` or ``confirm``.
        number: Optuna's number of the trial.
    """

    study: str
    kind: str
    number: int

    @property
    def name(self) -> str:
        """What the MLflow UI shows."""
        return f"{self.study}-{self.number:04d}"

    @property
    def tags(self) -> dict[str, str]:
        """What the run is found by."""
        return {"sweep.study": self.study, "sweep.kind": self.kind, "sweep.trial": str(self.number)}


@dataclass(frozen=True)
class RunState:
    """A run as MLflow held it when the tracker was opened; `outcome` is None while the trial is unfinished."""

    run_id: str
    outcome: str | None
    status: str


@dataclass
class KnownRun:
    """A run on the server: the names of the `params` it holds, and of each of its `metrics` the last step."""

    run_id: str
    status: str
    start_time: int
    params: set[str] = field(default_factory=set)
    metrics: dict[str, int] = field(default_factory=dict)
    twins: bool = False  # whether there may be a second run of the trial


@dataclass
class PendingRun:
    """What one run still has to send; `key` None is the study's own run, the parent of all others."""

    key: RunKey | None
    start_time: int | None = None  # milliseconds since the Unix epoch
    search: bool = False  # look on the server before creating the run
    params: dict[str, object] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    epochs: list[EpochMetrics] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # one value a run, at step 0
    jobs: list[Callable[[MlflowClient, str], None]] = field(default_factory=list)
    end: tuple[str, int] | None = None  # status, milliseconds since the Unix epoch
    end_tags: dict[str, str] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    failing: float | None = None  # since when its next job fails

    def add(self, later: PendingRun) -> None:
        """Takes over what came later; a new start takes an end back."""
        if later.start_time is not None:
            self.start_time, self.end = later.start_time, None
        self.search |= later.search
        self.params |= later.params
        self.tags |= later.tags
        self.epochs += later.epochs
        self.metrics |= later.metrics
        self.jobs += later.jobs
        self.end = later.end or self.end
        self.end_tags |= later.end_tags

    def is_down_to_jobs(self) -> bool:
        """Whether all that comes before the jobs was taken."""
        return bool(self.jobs) and not (self.params or self.tags or self.epochs or self.metrics)

    def give_up(self) -> bool:
        """Drops what the server refuses, so that the rest can be sent: the next job, or what comes before the jobs.

        Returns:
            Whether anything is left.
        """
        if self.is_down_to_jobs():
            del self.jobs[0]
            self.failing = None
        elif self.params or self.tags or self.epochs or self.metrics:
            self.params, self.tags, self.epochs, self.metrics = {}, {}, [], {}
        else:
            self.end, self.end_tags = None, {}
        return bool(self.jobs or self.end)


class MlflowStore:
    """The runs of one experiment, as far as this process knows them.

    Attributes:
        experiment_id: known after `begin`.
        experiment_tags: of the experiment, as `find_experiment` found it.
        found: the trials' runs that were there before.
        status: of the study's own run before; None where there was none.
    """

    def __init__(self, uri: str, study: str, artifacts: AnyPath, experiment: str):
        self.uri = uri
        self.study = study
        self.experiment = experiment
        self.experiment_id = ""
        self.experiment_tags: dict[str, str] = {}
        self.found: dict[RunKey, RunState] = {}
        self.status: str | None = None
        self._artifacts = artifacts
        self._remote = uri.startswith(("http:", "https:", "databricks"))
        self._known: dict[RunKey | None, KnownRun] = {}
        self._connection: MlflowClient | None = None
        self._environment: list[str] = []

    @property
    def where(self) -> str:
        """The server, in words."""
        return f"MLflow at {without_password(self.uri)}"

    def find_experiment(self, *, create: bool = False) -> str | None:
        """Connects, and returns the experiment's id if it exists.

        Args:
            create: make an SQLite store that is not there yet, without experiments.

        Raises:
            TrackingError: the server is out of reach or refuses, or the experiment was deleted.
        """
        if not create and self.uri.startswith(SQLITE) and not Path(self.uri.removeprefix(SQLITE)).exists():
            return None
        try:
            with contextlib.nullcontext() if self._remote else self._alone():
                return self._find()
        except OSError as error:  # a folder that cannot be written
            raise TrackingError(self.explain(error)) from None

    def _find(self) -> str | None:
        try:
            found = self._client().get_experiment_by_name(self.experiment)
        except _store_errors() as error:
            raise TrackingError(self.explain(error)) from None
        if found is not None and found.lifecycle_stage == "deleted":
            restore, rename = (self._mlflow(what, found.experiment_id) for what in ("restore", "rename"))
            raise TrackingError(
                f"the MLflow experiment {self.experiment!r} was deleted. Restore it:\n  {restore}\n"
                f"and, to begin anew under this name, rename the restored one:\n  {rename}\n"
                "or give the study another name"
            )
        if found is None:
            return None
        self.experiment_tags = dict(found.tags)
        return str(found.experiment_id)

    def open_existing(self) -> bool:
        """Finds the experiment and its parent run, which stays as it is; False where there is none.

        Raises:
            TrackingError: as for `find_experiment`.
        """
        if (existing := self.find_experiment()) is None:
            return False
        self.experiment_id, order = existing, ["attributes.start_time ASC"]
        try:
            found = self._client().search_runs([existing], "tags.`sweep.kind` = 'study'", max_results=1, order_by=order)
        except _store_errors() as error:
            raise TrackingError(self.explain(error)) from None
        if found:
            self._known[None] = _known(found[0])
        return bool(found)

    def find_runs(self, experiment_id: str, keys: Iterable[RunKey]) -> dict[RunKey, str]:
        """Ids of the runs that are there, each looked for by its tags (4 ms).

        Raises:
            TrackingError: the server is out of reach or refuses.
        """
        try:
            found = {key: self._search(self._client(), experiment_id, key) for key in keys}
        except _store_errors() as error:
            raise TrackingError(self.explain(error)) from None
        return {key: runs[0].info.run_id for key, runs in found.items() if runs}

    def _search(self, client: MlflowClient, experiment_id: str, key: RunKey) -> list[Run]:
        """The runs of a trial, the one that counts first; there is a second where two creations crossed."""
        filters = " and ".join(f"tags.`{name}` = '{value}'" for name, value in key.tags.items())
        return sorted(client.search_runs([experiment_id], filters, max_results=10), key=_rank)

    def _mlflow(self, what: str, experiment_id: str) -> str:
        """A command of MLflow that restores an experiment, or gives it another name."""
        new_name = f" --new-name {self.experiment}-old" if what == "rename" else ""
        uri = without_password(self.uri)
        return f"MLFLOW_TRACKING_URI='{uri}' mlflow experiments {what} --experiment-id {experiment_id}{new_name}"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One driver of the workspace at a time: two that start together would both create what is not there yet."""
        folder = local_path(self._artifacts.absolute()).parent
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "tracking.lock").held():
            yield

    def begin(
        self,
        description: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        experiment_tags: Mapping[str, str],
        taken: Taken | None,
    ) -> None:
        """Finds or creates the experiment and the parent run, sets that RUNNING, and learns which runs there are.

        Args:
            taken: the trials that have been begun, by study and number, asked for when the runs are known.

        Raises:
            TrackingError: as for `find_experiment`; or there are runs of other trials.
        """
        tags = {**tags, "sweep.study": self.study, "sweep.kind": "study", "mlflow.note.content": description}
        try:
            with self._alone():
                existing, client = self._find(), self._client()
                if existing is None:
                    # MLflow's default location is relative to the current folder.
                    location = None if self._remote else self._artifacts.absolute().as_uri()
                    self.experiment_id = client.create_experiment(self.experiment, artifact_location=location)
                else:
                    self.experiment_id = existing
                    self._refuse_namesake(experiment_tags)
                    self._remember(client)
                    self.status = self._known[None].status if None in self._known else None
                    if taken is not None:
                        self._refuse_strangers(taken())
                for name, value in experiment_tags.items():
                    if name != OWNER or name not in self.experiment_tags:  # whoever goes on with it does not take it
                        client.set_experiment_tag(self.experiment_id, name, value)
                self.send(PendingRun(None, time.time_ns() // 1_000_000, params=dict(params), tags=tags))
        except _store_errors() as error:
            raise TrackingError(self.explain(error)) from None
        if "MLFLOW_HTTP_REQUEST_TIMEOUT" in self._environment:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "30"  # from here on nobody waits, and files may be large

    def _refuse_namesake(self, tags: Mapping[str, str]) -> None:
        """Refuses the experiment of a study that has our name and another id."""
        if self.experiment_tags.get(ID, tags.get(ID)) != tags.get(ID):
            owner = self.experiment_tags.get(OWNER)
            raise self._another_study(f"is another study's of this name{f', which {owner} owns' if owner else ''}")

    def _refuse_strangers(self, taken: Set[tuple[str, int]]) -> None:
        """Refuses an experiment whose runs are not ours: they would be taken for it, and written to."""
        strange = [key.name for key in self.found if key.kind in KINDS and (key.study, key.number) not in taken]
        if strange:
            what = f"has {len(strange)} runs of trials that the storage does not have ({min(strange)}, ...)"
            raise self._another_study(f"{what}: it is another study's")

    def _another_study(self, what: str) -> TrackingError:
        return TrackingError(
            f"the MLflow experiment {self.experiment!r} {what}. Give yours another name (--set name=...), or a prefix "
            "(SWEEP_EXPERIMENT_PREFIX) or, to begin anew, rename the experiment:\n  "
            f"{self._mlflow('rename', self.experiment_id)}"
        )

    def send(self, work: PendingRun) -> None:
        """Sends a run's work in as few calls as MLflow allows, and forgets each part once it was taken.

        Raises:
            Exception: whatever MLflow raises; the same work can then be sent again, and is stored once.
        """
        from mlflow.entities import Param

        client = self._client()
        run = self._known.get(work.key) or self._start(client, work)
        if work.start_time is not None and work.end is None and run.status != "RUNNING":
            client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"

        metrics = _unsent(work, run)
        once = [value for value in work.metrics.items() if value[0] not in run.metrics]
        metrics += [_metric(*value, run.start_time, 0) for value in once]  # a time that is the same in every attempt
        params = [
            Param(name, _cut(value, PARAM_LENGTH)) for name, value in work.params.items() if name not in run.params
        ]
        tags, end_tags = _tags(work.tags), _tags(work.end_tags)
        # Within a call MLflow stores params, then metrics, then tags; more than one call would need the end's apart.
        if not work.jobs and len(params) <= 100 and len(metrics) + len(params) + len(tags) + len(end_tags) <= BATCH:
            tags, end_tags = tags + end_tags, []
        client.log_batch(run.run_id, metrics, params, tags)
        run.params |= work.params.keys()
        run.metrics |= {metric.key: metric.step for metric in sorted(metrics, key=lambda metric: metric.step)}
        work.epochs, work.metrics, work.params, work.tags = [], {}, {}, {}
        while work.jobs:
            work.jobs[0](client, run.run_id)
            del work.jobs[0]
        client.log_batch(run.run_id, tags=end_tags)
        if work.end is not None and not self._ended_by_another(client, run, work):
            run.status, end_time = work.end
            client.set_terminated(run.run_id, run.status, end_time)
        if work.end is not None and work.key is not None and run.twins:
            for twin in self._search(client, self.experiment_id, work.key):
                if twin.info.run_id != run.run_id and not _outcome(twin):
                    client.delete_run(twin.info.run_id)
            run.twins = False

    def _ended_by_another(self, client: MlflowClient, run: KnownRun, work: PendingRun) -> bool:
        """Whether a trial that this driver leaves unfinished was taken over, and has an outcome."""
        left = work.key is not None and work.end is not None and work.end[0] == "KILLED"
        return left and bool(_outcome(client.get_run(run.run_id)))

    def close(self) -> None:
        """Takes back what the connection changed in the process's environment."""
        for name in self._environment:
            os.environ.pop(name, None)
        self._environment.clear()

    def explain(self, error: BaseException, *, dropped: str = "", doubtful: str = "") -> str:
        """One message for the user, without the password.

        Args:
            dropped: what was dropped for it.
            doubtful: what is tried again, while other things may get through.
        """
        code = getattr(error, "error_code", "")
        while error.__cause__ or error.__context__:  # the innermost says it shortest: "Connection refused"
            error = error.__cause__ or error.__context__ or error
        reason = (
            str(error).replace(self.uri, without_password(self.uri)).replace(urlsplit(self.uri).password or "\0", "***")
        )
        reason = f"{type(error).__name__}: {reason.strip().partition(chr(10))[0][:300]}"
        if dropped:
            return f"dropped what {self.where} does not take for {dropped} ({reason})"
        if doubtful:
            return f"{self.where} does not take what is there for {doubtful} ({reason}); it is tried again"
        if code in REFUSALS:
            advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that may write there"
            return f"{self.where} refuses access ({reason}); {advice}"
        advice = "start the server or correct MLFLOW_TRACKING_URI" if self._remote else "check that it can be written"
        return f"{self.where} is out of reach ({reason}); {advice}"

    def _client(self) -> MlflowClient:
        if self._connection is None:
            for name in ENVIRONMENT.keys() - os.environ.keys():
                os.environ[name] = ENVIRONMENT[name]
                self._environment.append(name)
            import mlflow

            if "MLFLOW_LOGGING_LEVEL" not in os.environ:
                logging.getLogger("mlflow").setLevel(logging.ERROR)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors reach the user anyway
            logging.getLogger("alembic").setLevel(logging.ERROR)
            if not self._remote:
                import mlflow.store.db.utils

                mlflow.store.db.utils.MAX_RETRY_COUNT = 4  # 1 s; its own 10 take 100 s
            self._connection = mlflow.MlflowClient(self.uri)
        return self._connection

    def _start(self, client: MlflowClient, work: PendingRun) -> KnownRun:
        """Finds or creates a run. If the answer to its creation is lost, the next attempt looks for it."""
        key, tags = work.key, work.tags
        if key is not None:
            tags = {**tags, **key.tags, "mlflow.parentRunId": self._known[None].run_id}
        wanted = key is not None and (work.search or work.start_time is None)  # None: another driver has started it
        if wanted and key is not None and (found := self._search(client, self.experiment_id, key)):
            self._known[key] = _known(found[0])
            return self._known[key]
        if work.start_time is None:
            raise ValueError(f"{work.key} was never started")
        twins, work.search = work.search, True
        run = client.create_run(
            self.experiment_id,
            start_time=work.start_time,
            tags={tag.key: tag.value for tag in _tags(tags)},
            run_name=key.name if key else self.study,
        )
        self._known[key] = KnownRun(run.info.run_id, "RUNNING", work.start_time, twins=twins)
        work.tags = {}
        return self._known[key]

    def _remember(self, client: MlflowClient) -> None:
        """Learns all runs of the experiment that this service made; of a trial's two that which is not whole goes."""
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
        for key, found in runs.items():
            chosen, *others = sorted(found, key=_rank)
            self._known[key] = _known(chosen)
            if key is not None:
                self.found[key] = RunState(chosen.info.run_id, _outcome(chosen), chosen.info.status)
                for other in others if _outcome(chosen) else ():
                    client.delete_run(other.info.run_id)


ErrorClass = Literal["away", "doubtful", "final"]


def classify_error(error: Exception) -> ErrorClass:
    """What an error says of what was to be sent.

    Returns:
        ``away``: nothing gets through now; ``doubtful``: another attempt may mend it, and other things may get through;
        ``final``: no attempt will.
    """
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return "away" if status >= 500 or status in PASSING else "doubtful"
    if isinstance(error, requests.ConnectionError | requests.Timeout | ConnectionError | TimeoutError):
        return "away"
    if isinstance(error, OSError):  # of a file, or of object storage
        return "final" if isinstance(error, FileNotFoundError) else "doubtful"
    code = getattr(error, "error_code", "INVALID_PARAMETER_VALUE")
    return "final" if code in FINAL_ERRORS else "doubtful" if code == DATABASE_ERROR else "away"


def _store_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises for a store that is out of reach, refuses, or lacks its driver."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError


def _unsent(work: PendingRun, run: KnownRun) -> list[Metric]:
    """The metrics of epochs that a run lacks; of a trial each one once, by name and epoch.

    One whose newest checkpoint was damaged trains epochs again that it had reported: to the same values, later.
    """
    known = run.metrics if work.key is not None else {}
    metrics: dict[tuple[str, int], Metric] = {}
    for epoch in work.epochs:
        for name, value in epoch.values.items():
            metric = _metric(name, value, epoch.timestamp, epoch.epoch)
            if metric.step > known.get(metric.key, -1):
                metrics.setdefault((metric.key, metric.step), metric)
    return list(metrics.values())


def _outcome(run: Run) -> str | None:
    outcome: str | None = run.data.tags.get("sweep.outcome")
    return outcome


def _rank(run: Run) -> tuple[bool, int, str]:
    """Where a trial has two runs, the whole one counts, else the older."""
    return not _outcome(run), run.info.start_time, run.info.run_id


def _known(run: Run) -> KnownRun:
    metrics = {metric.key: metric.step for metric in run.data.to_proto().metrics}
    return KnownRun(run.info.run_id, run.info.status, run.info.start_time, set(run.data.params), metrics)


def _metric(name: str, value: float, timestamp: int, step: int) -> Metric:
    from mlflow.entities import Metric

    # Layer names are the user's. An infinite value is stored as 1.8e308, which flattens every chart: NaN instead.
    name = re.sub(r"[^\w\-. :/]", "_", name)[:250]
    return Metric(name, value if math.isfinite(value) else math.nan, timestamp, step)


def _tags(tags: Mapping[str, object]) -> list[RunTag]:
    from mlflow.entities import RunTag

    return [RunTag(name, _cut(value, TAG_LENGTH)) for name, value in tags.items()]


def _cut(value: object, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 3] + "..."
