"""MLflow's door: a study's runs, their links, and the server. No other folder imports `mlflow`.

May import `sweep.training` and what lies below it. Its face: `Tracker` records a study, `MlflowStore` finds its runs,
`serve` gives the command of a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import MlflowStore
    from .server import serve
    from .tracker import RunKey, Tracker

__all__ = ["MlflowStore", "RunKey", "Tracker", "serve"]

_HOMES = {"MlflowStore": "client", "RunKey": "tracker", "Tracker": "tracker", "serve": "server"}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
