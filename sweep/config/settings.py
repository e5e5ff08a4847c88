"""Where things are: storage, tracking, workspace, data, Ray. An option, else the environment, else a default."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainValidator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .filesystem import is_remote, local_path, parse_path

NO_DATABASE = (
    "workspace: object storage holds checkpoints and artifacts, but no database: give --storage or SWEEP_STORAGE "
    "(postgresql+psycopg://USER@HOST/DATABASE, or on one machine journal:////PATH), and --tracking or "
    "MLFLOW_TRACKING_URI (http://HOST:PORT, or on one machine sqlite:////PATH)"
)
Folder = Annotated[Path, PlainValidator(parse_path)]


def user() -> str:
    """The user's name on this machine; nothing where it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


class Settings(BaseSettings):
    """The settings of one command.

    Attributes:
        workspace: folder for everything a study writes, or s3://BUCKET/PREFIX for checkpoints and artifacts.
        storage: Optuna URL, or ``journal:///absolute/path`` (three slashes and a relative path: from here); empty
            where none was given and the workspace is in object storage, which can hold no database.
        tracking_uri: MLflow's; SQLite in the workspace by default; empty likewise.
        data: root folder of the data sets, or s3://BUCKET/PREFIX.
        address: Ray's; ``local`` starts a private Ray on this machine.
        report: whether a run ends with a report.
        log: what a run prints: for people, or a line of JSON for each event.
        owner: whose studies these are, a tag in MLflow.
        experiment_prefix: of the names of MLflow's experiments, on a server that is shared: ``vision/``.
        job: the id of the job that this driver is; empty where it is none.
        on_finish, on_failure: URLs that are told how a run has ended; often secrets, so taken from the environment.
    """

    model_config = SettingsConfigDict(env_prefix="SWEEP_", populate_by_name=True, extra="ignore")

    workspace: Folder = Field(Path("results"), validate_default=True)
    storage: str = ""
    tracking_uri: str = Field("", validation_alias="MLFLOW_TRACKING_URI")
    data: Folder = Field(Path(".data"), validate_default=True)
    address: str = Field("local", validation_alias="RAY_ADDRESS")
    report: bool = True
    log: Literal["text", "json"] = "text"
    owner: str = Field(default_factory=user)
    experiment_prefix: str = ""
    job: str = ""
    on_finish: str = ""
    on_failure: str = ""

    def model_post_init(self, _context: object) -> None:
        """Fills in what depends on the workspace."""
        if is_remote(self.workspace):
            return
        self.storage = self.storage or f"journal:///{self.workspace / 'optuna.journal'}"
        self.tracking_uri = self.tracking_uri or f"sqlite:///{self.workspace / 'mlflow.db'}"

    @property
    def local_dir(self) -> Path:
        """Folder of this machine for what cannot be in object storage: locks, reports, services."""
        return local_path(self.workspace)

    @property
    def cache(self) -> Path:
        """Folder of the data sets as memory-mapped arrays, one copy a machine; `places.here` says where there."""
        return self.workspace / ".cache"

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts, where no server keeps them."""
        return self.workspace / "artifacts"

    def experiment(self, study: str) -> str:
        """Name of a study's experiment in MLflow."""
        return f"{self.experiment_prefix}{study}"

    def reports(self, study: str) -> Path:
        """Folder of a study's report."""
        return self.local_dir / study / "report"

    def checkpoints(self, study: str, number: int) -> Path:
        """Folder of one trial's checkpoints."""
        return self.workspace / study / f"{number:04d}"
