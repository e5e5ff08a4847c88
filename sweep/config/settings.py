"""The settings of a command: workspace, storage, tracking, data, Ray. An option wins over the environment."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainValidator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .filesystem import AnyPath, is_remote, local_path, parse_path
from .sqlite import sqlite_url

NO_DATABASE = (
    "workspace: object storage holds checkpoints and artifacts, but no database: give --storage or SWEEP_STORAGE "
    "(postgresql+psycopg://USER@HOST/DATABASE, or on one machine journal:////PATH), and --tracking or "
    "MLFLOW_TRACKING_URI (http://HOST:PORT, or on one machine sqlite:////PATH)"
)
if TYPE_CHECKING:
    Folder: TypeAlias = AnyPath
else:  # pydantic resolves the names of an annotation, and UPath is installed with the extra s3 only
    Folder = Annotated[Any, PlainValidator(parse_path)]


def user_name() -> str:
    """Returns the user's name on this machine, or an empty string if it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


class Settings(BaseSettings):
    """The settings of one command; ``workspace`` and ``data`` are folders, or s3://BUCKET/PREFIX.

    In a local workspace, ``storage`` and ``tracking_uri`` default to a file; object storage cannot hold a database.
    """

    model_config = SettingsConfigDict(env_prefix="SWEEP_", populate_by_name=True, extra="ignore")

    workspace: Folder = Field(Path("results"), validate_default=True)
    storage: str = ""  # Optuna URL, or journal:///absolute/path (a relative path: below the current folder)
    tracking_uri: str = Field("", validation_alias="MLFLOW_TRACKING_URI")
    data: Folder = Field(Path(".data"), validate_default=True)
    address: str = Field("local", validation_alias="RAY_ADDRESS")  # local: a private Ray on this machine
    report: bool = True  # at the end of a run
    log: Literal["text", "json"] = "text"  # json: one line per event
    owner: str = Field(default_factory=user_name)  # a tag in MLflow
    experiment_prefix: str = ""  # on a shared MLflow server, as in vision/
    job: str = ""  # id of the Ray job that runs this driver
    on_finish: str = ""  # URL that is notified; often a secret, so set it in the environment
    on_failure: str = ""
    scratch: Path | None = None  # of a dry run: folder for the data that it prepares and downloads

    def model_post_init(self, _context: object) -> None:
        """Fills in the defaults that depend on the workspace."""
        if not is_remote(self.workspace):
            self.storage = self.storage or f"journal:///{self.workspace / 'optuna.journal'}"
            self.tracking_uri = self.tracking_uri or sqlite_url(self.workspace / "mlflow.db")

    @property
    def local_dir(self) -> Path:
        """Local folder for what cannot be in object storage: locks, reports, services."""
        return local_path(self.workspace)

    @property
    def cache(self) -> AnyPath:
        """Folder of the memory-mapped data sets; each machine has a copy at its `filesystem.local_path`."""
        return (self.scratch or self.workspace) / ".cache"

    @property
    def artifacts(self) -> AnyPath:
        """Folder of MLflow's artifacts if no server stores them."""
        return self.workspace / "artifacts"

    def experiment(self, study: str) -> str:
        """Returns the name of a study's experiment in MLflow."""
        return f"{self.experiment_prefix}{study}"

    def reports(self, study: str) -> Path:
        """Returns the folder of a study's report."""
        return self.local_dir / study / "report"

    def checkpoints(self, study: str, number: int) -> AnyPath:
        """Returns the folder of one trial's checkpoints."""
        return self.workspace / study / f"{number:04d}"
