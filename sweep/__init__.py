"""Entropy Sweep: Optuna decides, Ray executes, MLflow remembers.

The names below are for notebooks, programs and own training loops. Importing this package imports nothing else: each
name is loaded when it is first used.

Example:
    >>> import sweep
    >>> sweep.StudyConfig.__module__
    'sweep.config.study_config'
    >>> study = sweep.run("digits", trials=32)  # doctest: +SKIP
    >>> sweep.load("digits").best(5)  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

from .config.lazy_face import lazy_face

if TYPE_CHECKING:
    from . import integrations as integrations
    from .config.settings import Settings as Settings
    from .config.study_config import StudyConfig as StudyConfig
    from .losses import EntropyGuidance as EntropyGuidance
    from .service.callback import RunCallback as RunCallback
    from .service.library import confirm as confirm
    from .service.library import load as load
    from .service.library import load_config as load_config
    from .service.library import run as run
    from .service.library import train as train
    from .service.results import StudyResults as StudyResults
    from .service.run import RunOptions as RunOptions
    from .training.trial_context import TrialContext as TrialContext

    __version__: str
else:
    _FACE = {
        "EntropyGuidance": ".losses",
        "RunCallback": ".service.callback",
        "RunOptions": ".service.run",
        "Settings": ".config.settings",
        "StudyConfig": ".config.study_config",
        "StudyResults": ".service.results",
        "TrialContext": ".training.trial_context",
        **dict.fromkeys(("confirm", "load", "load_config", "run", "train"), ".service.library"),
    }
    _load = lazy_face(__name__, _FACE)
    __all__ = [*_FACE, "__version__", "integrations"]

    def __getattr__(name: str) -> Any:
        if name == "integrations":
            return importlib.import_module(".integrations", __name__)
        if name == "__version__":
            from importlib.metadata import version

            return version("entropy-sweep")
        return _load(name)
