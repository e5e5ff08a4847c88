"""Entropy Sweep: Optuna decides, Ray executes, MLflow remembers.

The names below are for notebooks and own training loops. Importing this package imports nothing else: each name is
loaded when it is first used.

Example:
    >>> import sweep
    >>> sweep.StudyConfig.__module__
    'sweep.config.study_config'
    >>> summary = sweep.run("digits", trials=24)  # doctest: +SKIP
    >>> summary.best[0].hyperparameters  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .config.settings import Settings
    from .config.study_config import StudyConfig
    from .losses import EntropyGuidance
    from .service.callback import RunCallback
    from .service.notebook import confirm, load_study, report, run, train
    from .service.run import RunOptions

    __version__: str
else:
    _load = lazy_face(
        __name__,
        {
            "EntropyGuidance": ".losses",
            "RunCallback": ".service.callback",
            "RunOptions": ".service.run",
            "Settings": ".config.settings",
            "StudyConfig": ".config.study_config",
            **dict.fromkeys(("confirm", "load_study", "report", "run", "train"), ".service.notebook"),
        },
    )

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("entropy-sweep")
        return _load(name)


__all__ = [
    "EntropyGuidance",
    "RunCallback",
    "RunOptions",
    "Settings",
    "StudyConfig",
    "__version__",
    "confirm",
    "load_study",
    "report",
    "run",
    "train",
]
