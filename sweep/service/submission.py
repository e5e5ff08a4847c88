"""Prepares a study for a cluster's head: the command, the code and the settings to send."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.errors import ConfigError
from ..config.secrets import without_secrets
from ..config.study_file import built_in, extend, missing_file, override, parse_study, read_file
from ..config.user_code import modules_to_send, packages, search_in
from ..config.user_command import files_to_send
from .preflight.name_checks import check_names


@dataclass(frozen=True)
class Submission:
    """A study to submit."""

    study: str
    words: list[str]  # of the command, without ``sweep``
    modules: list[str]  # packages and files to send
    file: Path | None  # the user's study file to send

    def write(self, folder: Path) -> None:
        """Copies code and study file into a folder."""
        from ..cluster.connect import collect

        collect(self.modules, folder)
        if self.file is not None:
            shutil.copy(self.file, folder / self.file.name)


def prepare_submission(
    study: str, *, sets: Sequence[str] = (), trials: int | None = None, design: int = 0, flags: Sequence[str] = ()
) -> Submission:
    """Checks a study file or built-in study as far as possible without the cluster's data.

    Raises:
        SweepError: all problems of the study at once, or no such file.
    """
    path = Path(study)
    is_file = path.suffix in (".yaml", ".yml") or path.is_file()
    if is_file and not path.is_file():
        raise missing_file(path)
    source = path if is_file else built_in(study)
    words = ["run", path.name if is_file else study, *(f"--set={each}" for each in sets), *flags]
    words += [f"--trials={trials}"] if trials is not None else []
    words += [f"--design={design}"] if design else []
    if source is None:
        return Submission(study, words, packages(), None)
    search_in(Path.cwd(), source.parent)
    raw, misplaced = override(read_file(source, study), list(sets))
    extend(raw, trials, design)
    config, problems = parse_study(raw)
    # Imports the user's own code; the head checks all other names.
    problems += check_names(raw) if config is not None and (config.import_paths or config.command) else []
    if config is None or misplaced + problems:
        raise ConfigError(study, misplaced + problems)
    own = [*(modules_to_send() if config.import_paths else ()), *files_to_send(config.command or ())]
    return Submission(config.name, words, [*packages(), *own], path if is_file else None)


def prepare_confirmation(study: str, words: Sequence[str]) -> Submission:
    """Prepares `sweep confirm` of a study, with these further ``words``; a study file names it, and its own code."""
    found = prepare_submission(study)
    return replace(found, words=["confirm", found.study, *words], file=None)


def settings_to_send(given: Mapping[str, str | Path | None]) -> dict[str, str]:
    """Returns options as environment variables; raises a ConfigError for passwords, which anybody could read there."""
    names = {"tracking": "MLFLOW_TRACKING_URI"}
    sent = {names.get(each, f"SWEEP_{each.upper()}"): str(value) for each, value in given.items() if value is not None}
    problems = [
        f"{name}: {without_secrets(value)} holds a password, which would be in the job's record: write it into "
        f"~/sweep.env on the head, as {name}=..."
        for name, value in sent.items()
        if without_secrets(value) != value
    ]
    if problems:
        raise ConfigError("options", problems)
    return sent
