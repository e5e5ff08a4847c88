"""Ray Jobs as a queue of studies: a study's driver runs on the head, which keeps its output."""

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
from .ray_internals import JOB_LOGGERS

MAX_RUNNING = 16  # drivers on one head; each needs some 600 MB
STOP_SECONDS = 600  # in which a driver checkpoints its trials; Ray's default of 3 s is too short
SECRETS_FILE = "sweep.env"  # in the head's home folder; the record of a job must hold no passwords
ACTIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class StudyJob:
    """One submission of a study."""

    id: str  # the study's name and the time of submission
    study: str
    status: str  # Ray's PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED
    started: str  # UTC, YYYY-MM-DD HH:MM:SS; empty if not yet
    ended: str
    message: str  # Ray's explanation of the status


def submit_job(
    address: str, study: str, command: Sequence[str], *, code: Path, environment: Mapping[str, str]
) -> StudyJob:
    """Runs ``python -m sweep COMMAND`` on the head whose dashboard has this HTTP address.

    Raises ClusterError if the head is unreachable, its queue is full, or the study is running already.

    Args:
        code: folder that becomes the driver's and the workers' current folder.
        environment: settings of the driver; no secrets. Workspace and data default to the head's home folder.
    """
    running = [job for job in list_jobs(address) if job.status in ACTIVE]
    if same := [job.id for job in running if job.study == study]:
        raise ClusterError([f"{study}: runs already, as {same[0]}: follow it with sweep logs, or stop it first"])
    if len(running) >= MAX_RUNNING:
        raise ClusterError([f"queue: {len(running)} studies run already, and a head takes no more: stop one, or wait"])
    name = f"{study}-{datetime.now(tz=UTC):%Y%m%d-%H%M%S}"
    with _client(address) as client:
        client.submit_job(
            entrypoint=shell_command(command, {**environment, "SWEEP_JOB": name}),
            submission_id=name,
            metadata={"study": study},
            runtime_env={
                "working_dir": str(code),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1"},
            },
        )
    return find_job(address, name)


def shell_command(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Returns the line that Ray's shell runs on the head; given settings override those of the head's own file."""
    secrets = f'set -a; [ ! -f "$HOME/{SECRETS_FILE}" ] || . "$HOME/{SECRETS_FILE}"; set +a'
    # The current folder is Ray's copy of the code, replaced whenever the code changes: nothing may be written there.
    kept = 'export SWEEP_WORKSPACE="${SWEEP_WORKSPACE:-$HOME/results}" SWEEP_DATA="${SWEEP_DATA:-$HOME/.data}"'
    given = shlex.join(f"{key}={value}" for key, value in environment.items())
    # exec, so that SIGTERM reaches the driver itself
    return f"{secrets}; {kept}; exec env {given} python -m sweep {shlex.join(command)}"


def list_jobs(address: str) -> list[StudyJob]:
    """Returns all submitted studies that the head has records of, oldest first; a new head has none."""
    with _client(address) as client:
        found = [job for job in client.list_jobs() if job.submission_id and "study" in (job.metadata or {})]
    found.sort(key=lambda job: job.start_time or 0)
    return [
        StudyJob(
            job.submission_id,
            job.metadata["study"],
            str(job.status.value),
            _format_time(job.start_time),
            _format_time(job.end_time),
            (job.message or "").partition(", last available logs")[0],
        )
        for job in found
    ]


def find_job(address: str, name: str) -> StudyJob:
    """Returns the newest job of a study, or a job by its id; raises ClusterError if there is none."""
    known = list_jobs(address)
    if matching := [job for job in known if name in (job.study, job.id)]:
        return matching[-1]
    raise ClusterError([f"{name}: no such job; there are: {', '.join(job.id for job in known) or 'none'}"])


def job_logs(address: str, job: StudyJob, *, follow: bool) -> Iterator[str]:
    """Yields the output of a job so far, and with ``follow`` its output until it ends."""
    with _client(address) as client:
        if not follow:
            yield client.get_job_logs(job.id)
            return
        with asyncio.Runner() as runner:
            yield from _follow(client, job, runner)


def _follow(client: Any, job: StudyJob, runner: asyncio.Runner) -> Iterator[str]:
    """Yields a job's output until it ends. After a lost connection the head sends everything again."""
    yielded = 0  # characters
    while True:
        tail, received = client.tail_job_logs(job.id), 0
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    text = runner.run(anext(tail))
                    received += len(text)
                    if received > yielded:
                        yield text[-(received - yielded) :]
                        yielded = received
        finally:
            runner.run(tail.aclose())
        if str(client.get_job_status(job.id).value) not in ACTIVE:
            return
        time.sleep(1)


def stop_job(address: str, job: StudyJob) -> StudyJob:
    """Stops a job's driver, and returns when it has ended: running trials write checkpoints first."""
    with _client(address) as client:
        client.stop_job(job.id)
    deadline = time.monotonic() + STOP_SECONDS + 30
    while (job := find_job(address, job.id)).status in ACTIVE and time.monotonic() < deadline:
        time.sleep(0.5)
    return job


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """Connects Ray's job client for a ``with`` block; raises ClusterError if the head is unreachable or refuses."""
    check_dashboard(address)
    try:
        from ray.job_submission import JobSubmissionClient

        with quiet("ray", *JOB_LOGGERS):
            yield JobSubmissionClient(address)
    except ImportError as error:
        raise ClusterError([f"jobs need ray[default] ({error}): pip install 'entropy-sweep[cluster]'"]) from None
    except ClusterError:
        raise
    except (RuntimeError, OSError) as error:
        raise ClusterError([f"address {address}: {first_line(error)}"]) from None


def _format_time(milliseconds: int | None) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}" if milliseconds else ""
