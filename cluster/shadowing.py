"""Makes Ray's workers import this program, even if the current folder or PYTHONPATH has a module of the same name.

Ray puts the driver's current folder first in a worker's ``sys.path``, so a user's ``sweep.py`` there would win.
"""

import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path


def import_hook() -> Callable[[], None] | None:
    """Returns a function that imports this program in a worker, or None if a worker finds no other module first.

    The function must be pickled by value, because the worker cannot import this module before it has run.
    """
    name = __name__.partition(".")[0]
    file = Path(str(sys.modules[name].__file__)).resolve()
    places = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    found = PathFinder.find_spec(name, places)
    if found is None or (found.origin is not None and Path(found.origin).resolve() == file):
        return None
    path = str(file)

    def import_program() -> None:
        import importlib.util
        import sys

        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)

    return import_program
