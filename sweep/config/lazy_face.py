"""Lets a package re-export names without importing them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_face(package: str, face: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a package, which imports a name from its (relative) module when first used."""

    def load(name: str) -> Any:
        if name not in face:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(face[name], package), name)

    return load
