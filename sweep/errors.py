"""The errors a user can meet. Each message says what is wrong, where, what is allowed and what to do."""


class SweepError(Exception):
    """The caller's mistake, or the world's: one message, no traceback, exit code 2."""


class ConfigError(SweepError):
    """One or more problems in a study file or an option; all of them at once.

    Attributes:
        problems: one sentence each, beginning with the key path.
    """

    def __init__(self, source: str, problems: list[str]):
        self.problems = problems
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {p}" for p in problems))


class DataError(SweepError):
    """A data set is missing, incomplete or cannot be read."""


class StorageError(SweepError):
    """The Optuna storage is out of reach, or holds another study under this name."""


class TrackingError(SweepError):
    """The MLflow tracking server is out of reach or refuses."""
