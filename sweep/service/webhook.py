"""How a run has ended, for other programs: as data, and told to a webhook of the user's in one POST of JSON."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..analysis.wording import verdict
from ..config.errors import ConfigError

if TYPE_CHECKING:
    from ..analysis.confirmation import Confirmation
    from ..analysis.summary import Summary
    from ..config.settings import Settings

ATTEMPTS, PAUSE, PATIENCE = 3, 2.0, 10.0  # seconds between two, and for each


def check_webhooks(settings: Settings) -> None:
    """Looks at the webhooks before anything runs.

    Raises:
        ConfigError: all that are no URL.
    """
    given = {"SWEEP_ON_FINISH": settings.on_finish, "SWEEP_ON_FAILURE": settings.on_failure}
    problems = [  # without the URL, whose path is often a secret
        f"{name}: must be a URL that begins with https:// or http:// and names a host"
        for name, url in given.items()
        if url and not (url.startswith(("https://", "http://")) and urlsplit(url).hostname)
    ]
    if problems:
        raise ConfigError("settings", problems)


def describe(study: str, summary: Summary | None = None, error: BaseException | None = None) -> dict[str, Any]:
    """A run that ended with a summary, or with an error, as data.

    Returns:
        ``event`` is ``finished`` where the budget was met and a trial completed, else ``interrupted`` or ``failed``;
        ``text`` says all of it in one line, and is what chat services show.
    """
    event = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    counts, best, said = Counter[str](), None, []
    if summary is not None:
        event = "interrupted" if summary.interrupted else "finished" if summary.best else "failed"
        counts.update(row.outcome for row in summary.rows if row.outcome is not None)
        said = [f"{count} {outcome}" for outcome, count in counts.items()]
        for row in summary.best[:1]:
            best = {"trial": row.number, "value": row.value, "hyperparameters": row.hyperparameters}
            said.append(f"best {row.value:.5g} (trial {row.number})")
    if error is not None:
        said = [str(error) or type(error).__name__]
    seconds = summary.seconds if summary else None
    return {**_end(study, event, ", ".join(said), error), "outcomes": dict(counts), "best": best, "seconds": seconds}


def describe_confirmation(
    study: str, confirmation: Confirmation | None = None, error: BaseException | None = None
) -> dict[str, Any]:
    """A confirmation that was made, was stopped (neither), or ended with an error, as data like a run's."""
    failed = error is not None and not isinstance(error, KeyboardInterrupt)
    event, said, verdicts = (
        "failed" if failed else "interrupted",
        "" if error is None else str(error) or type(error).__name__,
        list[dict[str, Any]](),
    )
    if confirmation is not None:
        event = "finished"
        guided = [c for c in confirmation.comparisons if c.first == "guided"]
        said = " ".join(verdict(c, confirmation.metric) for c in guided)
        verdicts = [{"trial": c.number, "against": c.second, "verdict": c.verdict} for c in guided]
    return {**_end(f"confirm {study}", event, said, error), "study": study, "verdicts": verdicts}


def _end(what: str, event: str, said: str, error: BaseException | None) -> dict[str, Any]:
    return {
        "event": event,
        "study": what,
        "text": f"{what} {event}: {said}" if said else f"{what} {event}",
        "error": None if error is None else said,
        "host": socket.gethostname(),
    }


def notify_webhook(settings: Settings, end: Mapping[str, Any]) -> str | None:
    """Posts an ending to the URL that is meant for it, if there is one; returns why it could not be told."""
    name = "on_finish" if end["event"] == "finished" else "on_failure"
    if not (url := getattr(settings, name)):
        return None
    body, problem = json.dumps(end).encode(), ""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 (checked above)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            urllib.request.urlopen(request, timeout=PATIENCE).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"answers {error.code}"
            if error.code < 500:  # it has understood, and refuses
                break
        except (OSError, ValueError) as error:
            problem = str(getattr(error, "reason", error))
        else:
            return None
    return f"{name}: {urlsplit(url).hostname} {problem}"
