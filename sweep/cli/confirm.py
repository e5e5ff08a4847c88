"""The command that trains pairs: confirm."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    Address,
    AsJson,
    Data,
    Insecure,
    Log,
    NameArg,
    OfflineOk,
    Storage,
    Tracking,
    Workspace,
    command_line,
    make_settings,
)
from .output import make_console, print_json
from .run import graceful, interrupted, make_view, told

if TYPE_CHECKING:
    from ..config.study_config import StudyConfig
    from .progress import Progress


def confirm(
    name: NameArg,
    top: Annotated[int, typer.Option(min=1, help="How many of the best configurations.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Pairs of each of them: fresh seeds.")] = 8,
    against: Annotated[
        str,
        typer.Option(help="Other methods in guidance's place: dropout,weight_decay,batch_norm,he,orthogonal,lsuv."),
    ] = "",
    placebo: Annotated[bool, typer.Option("--placebo", help="Guide a meaningless twin of the same size too.")] = False,
    address: Address = None,
    workspace: Workspace = None,
    storage: Storage = None,
    tracking: Tracking = None,
    data: Data = None,
    offline_ok: OfflineOk = False,
    insecure: Insecure = False,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether guidance helped: pairs on fresh seeds and the test set, against tuned controls, with intervals.

    The best configurations of the search are trained beside their plain controls and the strongest control, which a
    search of its own finds first, with as many trials. Interrupted, the same command goes on.

    Example: `sweep confirm digits --top 2 --seeds 8 --placebo`
    """
    from .. import service
    from ..service import webhook as ending
    from ..service.confirm import confirm
    from . import confirmation_tables as verdicts

    settings = make_settings(
        workspace=workspace, storage=storage, tracking_uri=tracking, data=data, address=address, log=log
    )
    ending.check_webhooks(settings)
    console = make_console(to_stderr=as_json or settings.log == "json")
    methods = list(dict.fromkeys(method.strip() for method in against.split(",") if method.strip()))

    view = make_view(settings, console, as_json=as_json)
    views = list["Progress"]()  # one for each study that is run

    def listen(config: StudyConfig, left: int | None) -> Progress:
        views.append(view(config, console, service.finished_rows(config, settings), left))
        return views[-1]

    # Ray prints to stdout when a worker dies; that may be for data alone.
    out = contextlib.redirect_stdout(sys.stderr) if as_json or settings.log == "json" else contextlib.nullcontext()
    with (
        out,
        graceful(console) as (stop, caught),
        told(settings, views, partial(ending.describe_confirmation, name)) as ended,
    ):
        confirmation = confirm(
            name,
            settings,
            listen,
            top=top,
            seeds=seeds,
            against=methods,
            placebo=placebo,
            stop=stop,
            offline_ok=offline_ok,
            insecure=insecure,
        )
        ended.append(confirmation)
    if confirmation is None:
        options = [f"--top {top}", f"--seeds {seeds}", *([f"--against {','.join(methods)}"] if methods else [])]
        options += ["--placebo"] if placebo else []
        console.print("Interrupted; nothing is lost. Go on with:")
        console.print(f"  {command_line(settings, 'confirm', name, *options)}", soft_wrap=True)
        raise typer.Exit(interrupted(caught))
    if as_json:
        print_json(confirmation.as_data())
    elif settings.log == "text":
        verdicts.print_confirmation(confirmation, console)
