"""Built-in study files, run by name: ``python -m sweep run digits``."""
