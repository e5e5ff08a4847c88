"""The file of `sweep doctor --bundle`, for a bug report: text that its owner can read before it is sent."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from ...analysis.summary import summarise
from ...cluster.ray_internals import session_logs
from ...config.errors import SweepError, reason
from ...config.filesystem import write_atomically
from ...config.secrets import redact, without_secrets
from ...config.settings import Settings
from ...study.storages.catalog import study_names_of_ours
from ...study.storages.storage import UNREACHABLE
from ..preflight.load import find_study
from .doctor import Check

LINES = 200  # the last ones of each log
HOOKS = ("on_finish", "on_failure")
PREFIXES = ("SWEEP_", "MLFLOW_", "RAY_", "AWS_", "CUDA_", "OMP_")


def write_bundle(file: Path, checks: Iterable[Check], settings: Settings, study: str | None = None) -> None:
    """Writes versions, settings without secrets, a study's rows (without one: all studies') and last logs."""
    content = {
        "system": {"platform": platform.platform(), "python": platform.python_version()},
        "packages": {each.name: each.version for each in importlib.metadata.distributions()},
        "checks": [dict(zip(("check", "ok", "detail"), check, strict=True)) for check in checks],
        "settings": {
            key: bool(value) if key in HOOKS else without_secrets(str(value)) for key, value in dict(settings).items()
        },
        "environment": sorted(key for key in os.environ if key.startswith(PREFIXES)),  # names alone
        "studies": _studies(settings, study),
        "logs": {
            str(path): _last_lines(path) for path in [*settings.local_dir.glob("services/*.log"), *session_logs()]
        },
    }
    with write_atomically(file) as beside:
        beside.write_text(redact(json.dumps(content, indent=1, default=str)) + "\n")


def _studies(settings: Settings, study: str | None) -> dict[str, object]:
    """Returns the config and all rows of each study; of one that cannot be read the reason."""
    studies: dict[str, object] = {}
    try:
        for each in [find_study(study, settings)[0].get("name", study)] if study else study_names_of_ours(settings):
            summary = summarise(each, settings)
            rows = [dataclasses.asdict(row) for row in (*summary.rows, *summary.controls)]
            studies[each] = {"config": summary.config.model_dump(mode="json"), "rows": rows}
    except (SweepError, *UNREACHABLE) as error:
        studies["problem"] = reason(error)
    return studies


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-LINES:]
    except OSError as error:
        return [str(error)]
