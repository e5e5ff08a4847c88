"""MLflow's errors: their classes for the recorder, and their reasons for the user."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from ..config.secrets import hide

# Errors that no other attempt mends.
FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
# MLflow's code for most errors of its own database, such as a pool without a free connection: they pass.
DATABASE_ERROR = "BAD_REQUEST"
PASSING = {401, 403, 408, 425, 429}  # of HTTP, beside 5xx: the server answers, but accepts nothing now


def classify_error(error: Exception) -> Literal["unavailable", "busy", "refused"]:
    """Classifies an error by what else the server would accept.

    ``unavailable``: nothing is accepted now; ``busy``: this call may pass later, others may pass now;
    ``refused``: this call never passes.

    Example:
        >>> classify_error(ConnectionRefusedError())
        'unavailable'
    """
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return "unavailable" if status >= 500 or status in PASSING else "busy"
    if isinstance(error, requests.ConnectionError | requests.Timeout | ConnectionError | TimeoutError):
        return "unavailable"
    if isinstance(error, OSError):  # of a file, or of object storage
        return "refused" if isinstance(error, FileNotFoundError) else "busy"
    code = getattr(error, "error_code", "INVALID_PARAMETER_VALUE")
    return "refused" if code in FINAL_ERRORS else "busy" if code == DATABASE_ERROR else "unavailable"


def is_closed_connection(error: BaseException | None) -> bool:
    """Returns True if the server closed a kept-alive connection, as it may whenever that is idle."""
    if error is None:
        return False
    reasons = (error, *error.args)  # urllib3 gives it as an argument
    closed = any(isinstance(reason, ConnectionResetError | BrokenPipeError) for reason in reasons)
    return closed or is_closed_connection(error.__cause__ or error.__context__)


def store_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that MLflow raises for a store that is unreachable, foreign, refuses, or lacks its driver."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, OSError, ImportError


def innermost_reason(error: BaseException, uri: str) -> str:
    """Returns the first line of the innermost error, which is the shortest: "Connection refused"."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {hide(str(error), uri).strip().partition(chr(10))[0][:300]}"


@contextlib.contextmanager
def collect_refusals(refused: list[Exception]) -> Iterator[None]:
    """Collects an error that no other attempt mends, so that the rest can be sent."""
    try:
        yield
    except Exception as error:
        if classify_error(error) != "refused":
            raise
        refused.append(error)
