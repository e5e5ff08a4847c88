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

from typing import TYPE_CHECKING, Any

from .config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .config.settings import Settings as Settings
    from .config.study_config import StudyConfig as StudyConfig
    from .losses import EntropyGuidance as EntropyGuidance
    from .service.callback import RunCallback as RunCallback
    from .service.notebook import confirm as confirm
    from .service.notebook import load_study as load_study
    from .service.notebook import report as report
    from .service.notebook import run as run
    from .service.notebook import train as train
    from .service.run import RunOptions as RunOptions

    __version__: str
else:
    _FACE = {
        "EntropyGuidance": ".losses",
        "RunCallback": ".service.callback",
        "RunOptions": ".service.run",
        "Settings": ".config.settings",
        "StudyConfig": ".config.study_config",
        **dict.fromkeys(("confirm", "load_study", "report", "run", "train"), ".service.notebook"),
    }
    _load = lazy_face(__name__, _FACE)
    __all__ = [*_FACE, "__version__"]

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("entropy-sweep")
        return _load(name)
