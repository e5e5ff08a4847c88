"""The end of a run as data for other programs, and its POST to the user's webhook."""

import json
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..analysis.confirmation import Confirmation, pair_verdict
from ..analysis.summary import Summary
from ..config.errors import ConfigError
from ..config.secrets import redact
from ..config.settings import Settings

ATTEMPTS = 3
BACKOFF = 1.0  # seconds, doubled at each retry: 0, 2
TIMEOUT = 10.0  # seconds for each attempt


def check_webhooks(settings: Settings) -> None:
    """Raises a ConfigError with all webhooks that the library which sends them does not take as a URL."""
    given = {"SWEEP_ON_FINISH": settings.on_finish, "SWEEP_ON_FAILURE": settings.on_failure}
    problems = [  # without the URL, whose path is often a secret
        f"{name}: must be a URL that begins with https:// or http:// and names a host"
        for name, url in given.items()
        if url and not _host(url)
    ]
    if problems:
        raise ConfigError("settings", problems)


def describe_run(study: str, summary: Summary | None = None, error: BaseException | None = None) -> dict[str, Any]:
    """Returns the end of a run as data, from its summary or its error.

    ``event`` is ``finished`` if the budget was met and a trial completed, else ``interrupted`` or ``failed``. ``text``
    is a line with everything, which chat services show.
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
    seconds = summary.seconds if summary else None
    return {**_end(study, event, ", ".join(said), error), "outcomes": dict(counts), "best": best, "seconds": seconds}


def describe_confirmation(study: str, confirmation: Confirmation | None, error: BaseException | None) -> dict[str, Any]:
    """Returns the end of `sweep confirm` as data: finished, interrupted (neither argument given) or failed."""
    failed = error is not None and not isinstance(error, KeyboardInterrupt)
    event = "finished" if confirmation is not None else "failed" if failed else "interrupted"
    guided = [c for c in confirmation.comparisons if c.first == "guided"] if confirmation is not None else []
    said = " ".join(pair_verdict(c, confirmation.metric) for c in guided) if confirmation is not None else ""
    verdicts = [{"trial": c.number, "against": c.second, "verdict": c.verdict} for c in guided]
    return {**_end(f"confirm {study}", event, said, error), "study": study, "verdicts": verdicts}


def _end(what: str, event: str, said: str, error: BaseException | None) -> dict[str, Any]:
    said = said if error is None else redact(str(error)) or type(error).__name__
    return {
        "event": event,
        "study": what,
        "text": f"{what} {event}: {said}" if said else f"{what} {event}",
        "error": None if error is None else said,
        "host": socket.gethostname(),
    }


def notify_webhook(settings: Settings, end: Mapping[str, Any]) -> str | None:
    """Posts an end to the URL for it, if there is one; returns the problem if that fails.

    A message names nothing of the URL beyond its host, since the path is often a secret. Redirects are not followed.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    name = "on_finish" if end["event"] == "finished" else "on_failure"
    if not (url := getattr(settings, name)):
        return None
    retry = Retry(
        ATTEMPTS - 1,
        allowed_methods=None,  # all, POST included
        status_forcelist=range(500, 600),
        raise_on_status=False,
        respect_retry_after_header=False,  # the run's end waits for no server
        backoff_factor=BACKOFF,
    )
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its warnings name the path
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            headers, data = {"Content-Type": "application/json"}, json.dumps(dict(end))
            answer = session.post(url, data, headers=headers, timeout=TIMEOUT, allow_redirects=False)
        except (requests.RequestException, ValueError) as error:
            cause: BaseException = error  # the innermost: the outer ones name the whole URL
            while (inner := cause.__cause__ or cause.__context__) is not None:
                cause = inner
            problem = f"is unreachable ({getattr(cause, 'strerror', None) or type(cause).__name__})"
        else:
            if answer.status_code < 300:
                return None
            problem = f"answers {answer.status_code}"
    return f"{name}: {_host(url)} {problem}"


def _host(url: str) -> str | None:
    """Returns the host of a URL as it would be sent to, or None if it cannot be sent to."""
    import requests

    try:
        prepared = requests.Request("POST", url).prepare().url or ""
        return urlsplit(prepared).hostname if prepared.startswith(("https://", "http://")) else None
    except (requests.RequestException, ValueError):
        return None
