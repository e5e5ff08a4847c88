"""MLflow's errors: their classes for the recorder, and one message for the user."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from ..config.errors import without_password

ErrorClass = Literal["unavailable", "busy", "refused"]

# Errors that no other attempt mends.
FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
# MLflow's code for most errors of its own database, such as a pool without a free connection: they pass.
DATABASE_ERROR = "BAD_REQUEST"
PASSING = {401, 403, 408, 425, 429}  # of HTTP, beside 5xx: the server answers, but accepts nothing now
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}


def classify_error(error: Exception) -> ErrorClass:
    """Classifies an error by what else the server would accept.

    Returns:
        ``unavailable``: nothing is accepted now; ``busy``: this call may pass later, others may pass now;
        ``refused``: this call never passes.

    Example:
        >>> classify_error(ConnectionRefusedError())
        'unavailable'
        >>> classify_error(FileNotFoundError("weights.pt"))
        'refused'
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


def explain_unavailable(error: BaseException, uri: str, *, remote: bool) -> str:
    """Returns a message that names the store, the reason and the cure, without the password."""
    where, reason = store_name(uri), _innermost(error, uri)
    if getattr(error, "error_code", "") in REFUSALS:
        advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that may write there"
        return f"{where} refuses access ({reason}); {advice}"
    advice = "start the server or correct MLFLOW_TRACKING_URI" if remote else "check that it can be written"
    return f"{where} is unreachable ({reason}); {advice}"


def explain_busy(error: BaseException, uri: str, name: str) -> str:
    """Returns a message about the data of one run that are sent again."""
    return f"{store_name(uri)} does not accept data of {name} ({_innermost(error, uri)}); they are sent again"


def explain_refused(error: BaseException, uri: str, name: str) -> str:
    """Returns a message about the data of one run that are dropped."""
    return f"{store_name(uri)} refused data of {name}, they were dropped ({_innermost(error, uri)})"


def explain_deleted(uri: str, experiment: str, experiment_id: str) -> str:
    """Returns a message about a deleted experiment, with the commands that restore it."""
    restore, rename = (_command(command, uri, experiment, experiment_id) for command in ("restore", "rename"))
    return (
        f"the MLflow experiment {experiment!r} was deleted. Restore it:\n  {restore}\n"
        f"and, to begin anew under this name, rename the restored one:\n  {rename}\n"
        "or give the study another name"
    )


def explain_foreign(uri: str, experiment: str, experiment_id: str, what: str) -> str:
    """Returns a message about an experiment that belongs to another study."""
    return (
        f"the MLflow experiment {experiment!r} {what}. Give yours another name (--set name=...), or a prefix "
        "(SWEEP_EXPERIMENT_PREFIX) or, to begin anew, rename the experiment:\n  "
        f"{_command('rename', uri, experiment, experiment_id)}"
    )


def store_name(uri: str) -> str:
    """Returns the store's name in messages.

    Example:
        >>> store_name("https://ann:secret@mlflow.example")
        'MLflow at https://ann:***@mlflow.example'
    """
    return f"MLflow at {without_password(uri)}"


def _command(command: str, uri: str, experiment: str, experiment_id: str) -> str:
    """Returns MLflow's command that restores or renames an experiment."""
    new_name = f" --new-name {experiment}-old" if command == "rename" else ""
    uri = without_password(uri)
    return f"MLFLOW_TRACKING_URI='{uri}' mlflow experiments {command} --experiment-id {experiment_id}{new_name}"


def _innermost(error: BaseException, uri: str) -> str:
    """Returns the first line of the innermost error, which is the shortest: "Connection refused"."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    reason = str(error).replace(uri, without_password(uri)).replace(urlsplit(uri).password or "\0", "***")
    return f"{type(error).__name__}: {reason.strip().partition(chr(10))[0][:300]}"
