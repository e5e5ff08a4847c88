"""MLflow's errors: their classes for the recorder, and their reasons for the user."""

from typing import Literal
from urllib.parse import urlsplit

from ..config.errors import without_password

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


def store_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that MLflow raises for a store that is unreachable, refuses, or lacks its driver."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, ImportError


def innermost_reason(error: BaseException, uri: str) -> str:
    """Returns the first line of the innermost error, which is the shortest: "Connection refused"."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    reason = str(error).replace(uri, without_password(uri)).replace(urlsplit(uri).password or "\0", "***")
    return f"{type(error).__name__}: {reason.strip().partition(chr(10))[0][:300]}"
