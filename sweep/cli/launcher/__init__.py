"""The installed command ``sweep``, as the package ``entropy_sweep``.

It imports the program from where it is installed, as PYTHONPATH may hold a ``sweep.py`` of the user's.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn


def find_program() -> Path:
    """Returns the folder of the package ``sweep`` that this launcher is installed with."""
    here = Path(__file__).resolve().parent
    beside = here.parent / "sweep"  # in site-packages; in a checkout the launcher lies within the package
    return beside if (beside / "cli").is_dir() else here.parents[1]


def import_program(folder: Path) -> None:
    """Imports ``sweep`` from a folder, whatever sys.path says."""
    spec = importlib.util.spec_from_file_location("sweep", folder / "__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweep"] = module
    spec.loader.exec_module(module)


def main() -> NoReturn:
    """Runs the command line."""
    import_program(find_program())
    from sweep.cli.app import main

    main()


if __name__ == "__main__":
    main()
