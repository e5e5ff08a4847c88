"""Options that several commands share, and the settings that they make."""

import functools
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from ..config.errors import ConfigError
from ..config.secrets import without_secrets
from ..execution import ExecutorName
from .output import set_verbosity

if TYPE_CHECKING:
    from ..config.settings import Settings

StudyArg = Annotated[str, Argument(help="A study file, a study in the storage, or a built-in name.")]
NameArg = Annotated[str, Argument(help="Name of a study in the storage.")]
Sets = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a key of the study, or fix a hyperparameter."),
]
AsJson = Annotated[bool, Option("--json", help="Data on stdout, everything else on stderr.")]
OfflineOk = Annotated[
    bool, Option("--offline-ok", help="Go on if the tracking server is unreachable; it gets everything later.")
]
Insecure = Annotated[
    bool, Option("--insecure", help="Use a cluster without a token: anybody in reach can run anything on it.")
]
Workspace = Annotated[
    str | None, Option(help="Folder, or s3://BUCKET/PREFIX, for what a study writes (SWEEP_WORKSPACE; results).")
]
Storage = Annotated[str | None, Option(help="Optuna storage URL (SWEEP_STORAGE).")]
Tracking = Annotated[str | None, Option("--tracking", help="MLflow tracking URI (MLFLOW_TRACKING_URI).")]
Data = Annotated[str | None, Option(help="Root of the data sets, or s3://BUCKET/PREFIX (SWEEP_DATA; .data).")]
Address = Annotated[str | None, Option(help="Ray: local, auto, HOST:PORT, ray://HOST:PORT (RAY_ADDRESS; local).")]

Executor = Annotated[
    ExecutorName,
    Option(help="local: one trial after the other in this process, without Ray; for debugging and notebooks."),
]
Report = Annotated[bool | None, Option("--report/--no-report", help="Write the report at the end (SWEEP_REPORT; yes).")]
Log = Annotated[
    Literal["text", "json"] | None,
    Option(help="json: a line of JSON for each event on stdout, all else on stderr (SWEEP_LOG; text)."),
]

# The option that sets each of the settings, and the settings that commands have options for (`with_shared_options`).
SETTINGS: dict[str, Any] = {"workspace": Workspace, "storage": Storage, "tracking_uri": Tracking, "data": Data}
SETTINGS |= {"address": Address, "report": Report, "log": Log}
StudySettings = Annotated["Settings", "workspace", "storage"]
TrainSettings = Annotated[StudySettings, "data"]
ResultSettings = Annotated[StudySettings, "tracking_uri"]
MachineSettings = Annotated[ResultSettings, "data"]
ConfirmSettings = Annotated[MachineSettings, "address", "log"]
RunSettings = Annotated[ConfirmSettings, "report"]
Verbose = Annotated[bool, Option("--verbose", help="Show the debug log on stderr.")]
Quiet = Annotated[bool, Option("--quiet", help="Show errors and the final result alone.")]


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --verbose and --quiet to a command; replaces its parameter ``settings`` by the options that set them."""
    parameters = dict(inspect.signature(command, eval_str=True).parameters)
    names = parameters.pop("settings").annotation.__metadata__ if "settings" in parameters else ()
    added = [("verbose", Verbose, False), ("quiet", Quiet, False)]
    for name, option, default in [*((name, SETTINGS[name], None) for name in names), *added]:
        parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)

    @functools.wraps(command)
    def run(*, verbose: bool, quiet: bool, **options: Any) -> None:
        if verbose and quiet:
            raise ConfigError("options", ["--verbose and --quiet contradict each other: give one of them"])
        set_verbosity(verbose=verbose, quiet=quiet)
        if names:
            options["settings"] = make_settings(**{name: options.pop(name) for name in names})
        command(**options)

    # Typer reads both.
    setattr(run, "__signature__", inspect.Signature(list(parameters.values())))  # noqa: B010
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run


def make_settings(**options: Any) -> "Settings":
    """Returns the settings of one command: its options, then the environment, then the defaults."""
    from ..config.settings import Settings

    return Settings(**{name: value for name, value in options.items() if value is not None})


def complete_commands(text: str, settings: "Settings", name: str) -> str:
    """Adds to the commands about a study in a text the options without which they would not find the study."""
    return re.sub(
        rf"\bsweep (\w+) {re.escape(name)}(?![\w.-])", lambda found: command_line(settings, found[1], name), text
    )


def command_line(settings: "Settings", *words: str) -> str:
    """Returns a command with the options without which it would not find the study."""
    options = {"workspace": "--workspace", "storage": "--storage"}
    options |= (
        {"tracking_uri": "--tracking"} if words[0] in ("run", "resume", "confirm", "ui", "best", "report") else {}
    )
    options |= {"data": "--data", "address": "--address"} if words[0] in ("run", "resume", "confirm") else {}
    known = {**dict(make_settings(workspace=settings.workspace)), "workspace": Path("results").absolute()}
    place = [
        f"{option} {shlex.quote(without_secrets(str(value)))}"
        for name, option in options.items()
        if (value := getattr(settings, name)) != known[name]
    ]
    return " ".join(["sweep", *words, *place])
