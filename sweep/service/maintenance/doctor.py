"""Checks this machine and the settings for problems that would otherwise surface in the middle of a study."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable

import torch

from ...config.errors import SweepError, without_password
from ...config.filesystem import check_object_store, is_remote, local_path
from ...config.sections import DataConfig
from ...config.settings import Settings
from ...data.loading import DATASETS, load_dataset
from ...study.storages.storage import open_storage
from ...tracking.client import MlflowStore

Check = tuple[str, bool, str]  # name, True if passed, detail


def run_checks(settings: Settings) -> list[Check]:
    """Runs all checks; none of them raises."""
    packages = ("entropy-sweep", "ray", "optuna", "mlflow", "torch", "torchvision")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    present = [name for name in DATASETS if (local_path(settings.cache) / name / "test_labels.npy").is_file()]
    digits, tracking = DataConfig(name="digits"), without_password(settings.tracking_uri)
    return [
        ("versions", True, f"Python {platform.python_version()}, {versions}"),
        ("devices", True, f"{os.cpu_count()} CPUs; GPUs: {', '.join(gpus) or 'none'}"),
        _try("workspace", lambda: _workspace(settings)),
        _try("storage", lambda: open_storage(settings.storage), without_password(settings.storage)),
        _try("tracking", lambda: MlflowStore.of("doctor", settings).find_experiment(), tracking),
        _try("digits", lambda: load_dataset(digits, root=settings.data, cache=settings.cache), "readable"),
        ("data", True, f"prepared: {', '.join(present) or 'none yet'}; root {settings.data}"),
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
    settings.workspace.mkdir(parents=True, exist_ok=True)
    return f"{settings.workspace}, {shutil.disk_usage(settings.workspace).free / 1e9:.0f} GB free"
