"""Checks this machine and the settings for problems that would otherwise surface in the middle of a study."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from ...config.errors import SweepError
from ...config.filesystem import check_object_store, is_remote, local_path
from ...config.secrets import without_secrets
from ...config.sections import DataConfig
from ...config.settings import Settings
from ...data.loading import DATASETS, load_dataset
from ...study.storages.catalog import get_storage
from ...tracking.client import MlflowStore
from ..preflight.load import load_study

Check = tuple[str, bool, str]  # name, True if passed, detail


def run_checks(settings: Settings, study: str | None = None) -> list[Check]:
    """Runs all checks, of a study too if one is given (a path or a name); none of them raises."""
    packages = ("entropy-sweep", "ray", "optuna", "mlflow", "torch", "torchvision")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    present = [name for name in DATASETS if (local_path(settings.cache) / name / "test_labels.npy").is_file()]
    tracking = without_secrets(settings.tracking_uri)
    return [
        ("versions", True, f"Python {platform.python_version()}, {versions}"),
        ("devices", True, f"{os.cpu_count()} CPUs; GPUs: {', '.join(gpus) or 'none'}"),
        _try("workspace", lambda: _workspace(settings)),
        _try("storage", lambda: get_storage(settings.storage), without_secrets(settings.storage)),
        _try("tracking", lambda: MlflowStore.of("doctor", settings).find_experiment(), tracking),
        _try("digits", lambda: _read_digits(settings)),
        ("data", True, f"prepared: {', '.join(present) or 'none yet'}; root {settings.data}"),
        *([_try("study", lambda: _study(study, settings))] if study else []),
    ]


def _try(what: str, step: Callable[[], object], passed: str = "") -> Check:
    try:
        result = step()
    except (SweepError, OSError) as error:
        return what, False, str(error)
    return what, True, passed or str(result)


def _workspace(settings: Settings) -> str:
    if is_remote(settings.workspace):
        check_object_store(settings.workspace)
        return f"{settings.workspace} can be written"
    present = next(folder for folder in (settings.workspace, *settings.workspace.parents) if folder.exists())
    if not os.access(present, os.W_OK):
        raise SweepError(f"{present} cannot be written: choose another --workspace (SWEEP_WORKSPACE)")
    missing = "" if present == settings.workspace else ", which the first run makes"
    return f"{settings.workspace}{missing}, {shutil.disk_usage(present).free / 1e9:.0f} GB free"


def _study(study: str, settings: Settings) -> str:
    config, warnings = load_study(study, settings)
    found = f"{config.name}: {config.subject}, {config.search.trials} trials"
    return "\n".join([f"{found}, searching {', '.join(config.searched) or 'nothing'}", *warnings])


def _read_digits(settings: Settings) -> str:
    with tempfile.TemporaryDirectory(prefix="sweep-doctor-") as scratch:
        load_dataset(DataConfig(name="digits"), root=settings.data, cache=Path(scratch))
    return "readable"
