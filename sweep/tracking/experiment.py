"""One MLflow experiment: the connection, the experiment's name, and whether it is the study's own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock

from ..config.errors import TrackingError, without_password
from ..config.filesystem import AnyPath, local_path
from ..config.settings import NO_DATABASE
from .errors import innermost_reason, store_errors
from .mlflow_internals import ENVIRONMENT, connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient

    from ..config.settings import Settings

SQLITE = "sqlite:///"
ID, OWNER = "sweep.id", "sweep.owner"  # tags of an experiment
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}  # MLflow's error codes


class Experiment:
    """One experiment on a server, or in a database that this process opens itself."""

    def __init__(self, uri: str, study: str, artifacts: AnyPath, experiment: str | None = None):
        self.uri = uri
        self.study = study
        self.experiment = experiment or study
        self.name = f"MLflow at {without_password(uri)}"
        self.experiment_id = ""
        self.experiment_tags: dict[str, str] = {}
        self._artifacts = artifacts
        self._remote = uri.startswith(("http:", "https:", "databricks"))
        self._connection: MlflowClient | None = None
        self._environment: list[str] = []

    @classmethod
    def of(cls, study: str, settings: Settings) -> Self:
        """Returns a study's store with the user's settings; raises `TrackingError` if they name none."""
        if not settings.tracking_uri:
            raise TrackingError(NO_DATABASE)
        return cls(settings.tracking_uri, study, settings.artifacts, settings.experiment(study))

    def explain(self, error: BaseException) -> str:
        """Returns a message about a store that is unreachable or refuses access: the reason and the cure."""
        reason = innermost_reason(error, self.uri)
        if getattr(error, "error_code", "") in REFUSALS:
            advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that may write there"
            return f"{self.name} refuses access ({reason}); {advice}"
        advice = "start the server or correct MLFLOW_TRACKING_URI" if self._remote else "check that it can be written"
        return f"{self.name} is unreachable ({reason}); {advice}"

    def find_experiment(self, *, create: bool = False) -> str | None:
        """Connects, and returns the experiment's id if it exists; ``create`` makes a missing SQLite store.

        Raises:
            TrackingError: the server is unreachable or refuses, or the experiment was deleted.
        """
        if not create and self.uri.startswith(SQLITE) and not Path(self.uri.removeprefix(SQLITE)).exists():
            return None
        with self._explained(), contextlib.nullcontext() if self._remote else self._exclusive():
            return self._find()

    def _find(self) -> str | None:
        found = self._client().get_experiment_by_name(self.experiment)
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

    def _command(self, command: str, experiment_id: str) -> str:
        """Returns MLflow's command that restores or renames an experiment."""
        new_name = f" --new-name {self.experiment}-old" if command == "rename" else ""
        uri = without_password(self.uri)
        return f"MLFLOW_TRACKING_URI='{uri}' mlflow experiments {command} --experiment-id {experiment_id}{new_name}"

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
        folder = local_path(self._artifacts.absolute()).parent
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "tracking.lock"):
            yield

    def _check_study_id(self, tags: Mapping[str, str]) -> None:
        if self.experiment_tags.get(ID, tags.get(ID)) != tags.get(ID):
            owner = self.experiment_tags.get(OWNER)
            raise self._foreign(f"is another study's of this name{f', which {owner} owns' if owner else ''}")

    def _foreign(self, what: str) -> TrackingError:
        return TrackingError(
            f"the MLflow experiment {self.experiment!r} {what}. Give yours another name (--set name=...), or a prefix "
            "(SWEEP_EXPERIMENT_PREFIX) or, to begin anew, rename the experiment:\n  "
            f"{self._command('rename', self.experiment_id)}"
        )

    def _client(self) -> MlflowClient:
        if self._connection is None:
            for name in ENVIRONMENT.keys() - os.environ.keys():
                os.environ[name] = ENVIRONMENT[name]
                self._environment.append(name)
            self._connection = connect(self.uri, remote=self._remote)
        return self._connection

    def close(self) -> None:
        """Restores the process's environment."""
        for name in self._environment:
            os.environ.pop(name, None)
        self._environment.clear()


def create_store(uri: str, artifacts: AnyPath) -> None:
    """Creates an SQLite store that is missing, before a server and a driver do so at once."""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        Experiment(uri, "Default", artifacts).find_experiment(create=True)
