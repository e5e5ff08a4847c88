"""The installed command ``sweep``, as the package ``entropy_sweep``.

It imports the program from where it is installed, as PYTHONPATH may hold a ``sweep.py`` of the user's.
"""

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line."""
    here = Path(__file__).resolve().parent
    beside = here.parent / "sweep"  # in site-packages; in a checkout the launcher lies within the package
    folder = beside if (beside / "cli").is_dir() else here.parents[1]
    spec = importlib.util.spec_from_file_location("sweep", folder / "__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    sys.modules["sweep"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from sweep.cli.app import main

    main()


if __name__ == "__main__":
    main()
