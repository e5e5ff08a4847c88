"""Callbacks for trials that other libraries train: ``lightning.SweepCallback`` and ``huggingface.SweepCallback``.

Each library is imported with its module, when that is first used.
"""

import importlib
from types import ModuleType

MODULES = ("huggingface", "lightning")


def __getattr__(name: str) -> ModuleType:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
