"""``python -m sweep``."""

from .cli.app import main

main()
