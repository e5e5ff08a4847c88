"""Ray Jobs as a queue of studies: the driver runs on the head, and what it prints is kept there.

A job is named after its study, so that the newest one of a study can be asked for by the study's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .connect import ClusterError, check_dashboard, first_line, quiet

AT_ONCE = 16  # drivers on one head, each of which takes some 600 MB
STOP_SECONDS = 600  # for checkpoints; Ray's own 3 s are too short
SECRETS = "sweep.env"  # in the head's home folder: passwords, which must not be in the record of a job
ACTIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Job:
    """One submission of a study.

    Attributes:
        id: of this submission.
        status: Ray's: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``STOPPED``, ``FAILED``.
        started: in UTC, as it is written; likewise ``ended``.
        message: Ray's words about the status.
    """

    id: str
    study: str
    status: str
    started: str
    ended: str
    message: str


def submit(address: str, study: str, command: Sequence[str], *, code: Path, environment: Mapping[str, str]) -> Job:
    """Runs ``python -m sweep`` with some words on the head.

    Args:
        address: HTTP address of the head's dashboard.
        command: the words.
        code: folder that becomes the driver's and the workers' current folder.
        environment: settings of the driver; no secrets. Workspace and data are by default in the home of the head.

    Raises:
        ClusterError: out of reach, the queue is full, or the study runs already.
    """
    running = [job for job in jobs(address) if job.status in ACTIVE]
    same = [job.id for job in running if job.study == study]
    if same:
        raise ClusterError([f"{study}: runs already, as {same[0]}: follow it with sweep logs, or stop it first"])
    if len(running) >= AT_ONCE:
        raise ClusterError([f"queue: {len(running)} studies run, which is all that a head takes: stop one, or wait"])
    name = f"{study}-{datetime.now(tz=UTC):%Y%m%d-%H%M%S}"
    # Ray runs it by a shell; exec, so that SIGTERM reaches the driver itself. What was given goes before the file's.
    secrets = f'set -a; [ ! -f "$HOME/{SECRETS}" ] || . "$HOME/{SECRETS}"; set +a'
    # The current folder is Ray's copy of the code, another one as soon as that changes: nothing may be kept there.
    kept = 'export SWEEP_WORKSPACE="${SWEEP_WORKSPACE:-$HOME/results}" SWEEP_DATA="${SWEEP_DATA:-$HOME/.data}"'
    given = shlex.join(f"{key}={value}" for key, value in {**environment, "SWEEP_JOB": name}.items())
    with _client(address) as client:
        client.submit_job(
            entrypoint=f"{secrets}; {kept}; exec env {given} python -m sweep {shlex.join(command)}",
            submission_id=name,
            metadata={"study": study},
            runtime_env={
                "working_dir": str(code),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1"},
            },
        )
    return find(address, name)


def jobs(address: str) -> list[Job]:
    """All submitted studies that the head remembers, oldest first; a new head remembers none."""
    with _client(address) as client:
        found = [job for job in client.list_jobs() if job.submission_id and "study" in (job.metadata or {})]
    found.sort(key=lambda job: job.start_time or 0)
    return [
        Job(
            job.submission_id,
            job.metadata["study"],
            str(job.status.value),
            _written(job.start_time),
            _written(job.end_time),
            (job.message or "").partition(", last available logs")[0],
        )
        for job in found
    ]


def find(address: str, name: str) -> Job:
    """The newest job of a study, or a job by its id.

    Raises:
        ClusterError: there is none.
    """
    known = jobs(address)
    matching = [job for job in known if name in (job.study, job.id)]
    if not matching:
        raise ClusterError([f"{name}: no such job; there are: {', '.join(job.id for job in known) or 'none'}"])
    return matching[-1]


def logs(address: str, job: Job, *, follow: bool) -> Iterator[str]:
    """What a job has printed, and with ``follow`` what it prints until it ends."""
    with _client(address) as client:
        if not follow:
            yield client.get_job_logs(job.id)
            return
        loop = asyncio.new_event_loop()
        try:
            yield from _followed(client, job, loop)
        finally:
            loop.close()


def _followed(client: Any, job: Job, loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """What a job prints, until it ends; a connection that was closed before is opened again, and says all anew."""
    said = 0  # characters
    while True:
        tail, heard = client.tail_job_logs(job.id), 0
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    waiting = loop.create_task(anext(tail))
                    try:
                        text = loop.run_until_complete(waiting)
                    except KeyboardInterrupt:
                        waiting.cancel()
                        loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
                        raise
                    heard += len(text)
                    if heard > said:
                        yield text[-(heard - said) :]
                        said = heard
        finally:
            loop.run_until_complete(tail.aclose())
        if str(client.get_job_status(job.id).value) not in ACTIVE:
            return
        time.sleep(1)


def stop(address: str, job: Job) -> Job:
    """Asks a job's driver to stop, and returns when it has: running trials write checkpoints first."""
    with _client(address) as client:
        client.stop_job(job.id)
    deadline = time.monotonic() + STOP_SECONDS + 30
    while (job := find(address, job.id)).status in ACTIVE and time.monotonic() < deadline:
        time.sleep(0.5)
    return job


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """Ray's client; what it cannot do is told in one sentence.

    Raises:
        ClusterError: out of reach, or refused.
    """
    check_dashboard(address)
    try:
        from ray.dashboard.modules import dashboard_sdk
        from ray.dashboard.modules.job import sdk
    except ImportError as error:
        raise ClusterError([f"jobs need ray[default] ({error}): pip install -e '.[cluster]'"]) from None
    try:
        with quiet("ray", dashboard_sdk.__name__, sdk.__name__):
            yield sdk.JobSubmissionClient(address)
    except ClusterError:
        raise
    except (RuntimeError, OSError) as error:
        raise ClusterError([f"address {address}: {first_line(error)}"]) from None


def _written(milliseconds: int | None) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}" if milliseconds else ""
