"""Commands for clusters: the group `cluster`, and submit, jobs, logs, stop for studies whose driver runs on one."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from typer import Argument, Exit, Option, Typer

from ..config.errors import ConfigError, SweepError
from .options import AsJson, Data, Insecure, OfflineOk, Sets, Storage, Tracking, Workspace, make_settings
from .output import make_console, print_json

if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..service.submission import Submission

Head = Annotated[str, Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="HTTP address of the cluster's head.")]
HEAD = "http://127.0.0.1:8265"
JobArg = Annotated[str, Argument(help="A study, for its newest job, or a job id.")]
cluster = Typer(name="cluster", help="Recipes that start a cluster.", no_args_is_help=True)


@cluster.command()
def render(
    recipe: Annotated[str, Argument(help="aws, gcp (ray up); kuberay, rayjob; slurm; compose.")],
    gpu: Annotated[str | None, Option(help="Accelerator of the workers: t4, l4, a10g, a100, h100; none.")] = None,
    max_workers: Annotated[int | None, Option(help="Machines beside the head.")] = None,
    image: Annotated[str | None, Option(help="Image that the machines pull.")] = None,
    shared: Annotated[str | None, Option(help="SERVER:/PATH (NFS) that all machines share.")] = None,
    region: Annotated[str | None, Option(help="Region of the cloud.")] = None,
    project: Annotated[str | None, Option(help="Google Cloud project.")] = None,
    name: Annotated[str | None, Option(help="Name of the cluster, if there are several.")] = None,
) -> None:
    """Print a recipe with your values; cluster/README.md explains its use.

    Example: `sweep cluster render aws --gpu a10g --max-workers 16 > my.yaml`
    """
    from ..cluster.recipes import RecipeError, RecipeValues, missing_values, render_recipe

    values = RecipeValues(name, image, gpu, max_workers, shared, region, project)
    try:
        print(render_recipe(recipe, values), end="")
    except RecipeError as error:
        raise ConfigError(f"cluster render {recipe}", error.problems) from None
    console = make_console(to_stderr=True)
    for each in missing_values(recipe, values):
        console.print(Text.assemble(("missing:", "yellow"), f" {each}"), soft_wrap=True)


@cluster.command()
def secrets(
    kubernetes: Annotated[bool, Option("--kubernetes", help="Print Secrets, for kubectl apply.")] = False,
) -> None:
    """Print fresh passwords and a token, for the recipes compose and kuberay. Keep them: nothing else stores them.

    Example: `sweep cluster secrets > sweep.env`, after `umask 077`
    """
    from ..cluster.recipes import make_secrets

    print(make_secrets(kubernetes=kubernetes), end="")


def submit(
    study: Annotated[str, Argument(help="A study file, a built-in name, or a study in the cluster's storage.")],
    sets: Sets = None,
    trials: Annotated[int | None, Option(min=1, help="Trials in total.")] = None,
    design: Annotated[int, Option(min=0, help="Add this many uniform, unpruned trials to the total.")] = 0,
    address: Head = HEAD,
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    offline_ok: OfflineOk = False,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Run a study on a cluster, driver included; submitted again, it resumes the study.

    The head provides settings that are not given: from its environment, and from its file ~/sweep.env for passwords.

    Example: `sweep submit digits --address http://127.0.0.1:8265`
    """
    from ..service.submission import prepare_submission

    flags = [word for word, given in (("--offline-ok", offline_ok), ("--insecure", insecure)) if given]
    submission = prepare_submission(study, sets=sets or [], trials=trials, design=design, flags=flags)
    given = {"workspace": workspace, "storage": storage, "tracking": tracking, "data": data}
    send(submission, given, address, as_json=as_json)


def send(submission: "Submission", given: Mapping[str, str | Path | None], address: str, *, as_json: bool) -> None:
    """Submits a command with the settings that were given, and prints how to follow it."""
    from ..cluster.jobs import submit_job
    from ..service.submission import settings_to_send

    environment = settings_to_send({**given, "owner": make_settings().owner or None})
    with tempfile.TemporaryDirectory(prefix="sweep-code-") as folder:
        submission.write(Path(folder))
        job = submit_job(address, submission.study, submission.words, code=Path(folder), environment=environment)
    if as_json:
        print_json(dataclasses.asdict(job))
        return
    console, where = make_console(), "" if address == HEAD else f" --address {address}"
    console.print(f"Submitted as {job.id}.", soft_wrap=True)
    for what, command in (("follow", f"logs {job.study} -f"), ("stop", f"stop {job.study}"), ("all", "jobs")):
        console.print(f"  {what:8s} sweep {command}{where}", soft_wrap=True)


def submit_confirmation(study: str, words: list[str], settings: "Settings", *, as_json: bool) -> None:
    """Submits `sweep confirm` with the settings that its options have set; the head provides the others."""
    from ..service.submission import prepare_confirmation

    ours = make_settings()
    known = {**dict(make_settings(workspace=settings.workspace)), "workspace": ours.workspace}
    names = {"workspace": "workspace", "storage": "storage", "tracking": "tracking_uri", "data": "data"}
    given = {option: str(getattr(settings, n)) for option, n in names.items() if getattr(settings, n) != known[n]}
    address = settings.address
    if address == ours.address:
        address = os.environ.get("RAY_API_SERVER_ADDRESS", HEAD)
    if not address.startswith(("http://", "https://")):
        problem = f"--address: with --submit, the HTTP address of the cluster's head, such as {HEAD} (got {address})"
        raise ConfigError("options", [problem])
    send(prepare_confirmation(study, words), given, address, as_json=as_json)


def jobs(address: Head = HEAD, as_json: AsJson = False) -> None:
    """Show the studies that were submitted to a cluster, oldest first.

    Example: `sweep jobs --address http://127.0.0.1:8265`
    """
    from ..cluster.jobs import list_jobs

    found = list_jobs(address)
    if as_json:
        print_json([dataclasses.asdict(job) for job in found])
        return
    for job in found:
        when = f"{job.started} to {job.ended}" if job.ended else f"since {job.started}"
        make_console().print(f"{job.id}  {job.status.lower():9s}  {when} UTC", soft_wrap=True)
    if not found:
        make_console().print("Nothing was submitted to this head.")


def logs(
    name: JobArg,
    follow: Annotated[bool, Option("--follow", "-f", help="Print until the job ends.")] = False,
    address: Head = HEAD,
) -> None:
    """Print the output of a submitted study. With -f, exit code 1 if it fails; Ctrl-C ends the printing alone.

    Example: `sweep logs digits -f`
    """
    from ..cluster.jobs import find_job, job_logs

    job = find_job(address, name)
    with contextlib.suppress(KeyboardInterrupt):
        for text in job_logs(address, job, follow=follow):
            print(text, end="", flush=True)
    if follow and (job := find_job(address, job.id)).status == "FAILED":
        make_console(to_stderr=True).print(f"{job.id} failed: {job.message}", soft_wrap=True)
        raise Exit(1)


def stop(name: JobArg, address: Head = HEAD) -> None:
    """Stop a submitted study: its running trials write checkpoints. Submitted again, it resumes.

    Example: `sweep stop digits`
    """
    from ..cluster.jobs import ACTIVE, find_job, stop_job

    job = find_job(address, name)
    if job.status not in ACTIVE:
        make_console().print(f"{job.id} does not run: {job.status.lower()}.", soft_wrap=True)
        return
    job = stop_job(address, job)
    if job.status in ACTIVE:
        raise SweepError(f"{job.id} is still {job.status.lower()} after minutes; try again later")
    make_console().print(
        f"{job.id}: {job.status.lower()}. Nothing is lost; submit the study again to resume it.", soft_wrap=True
    )
