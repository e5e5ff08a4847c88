"""The command that trains and compares pairs: confirm."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .output import make_console, make_notes, print_json
from .run_study import exit_code, graceful, make_view, webhook_at_end

if TYPE_CHECKING:
    from ..config.study_config import StudyConfig
    from .progress import Progress

METHODS = "dropout,weight_decay,batch_norm,he,orthogonal,lsuv"


def confirm(
    settings: opt.ConfirmSettings,
    name: opt.NameArg,
    top: Annotated[int, typer.Option(min=1, help="How many of the best configurations.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Pairs of each of them: fresh seeds.")] = 8,
    against: Annotated[str, typer.Option(help=f"Other methods in guidance's place: {METHODS}.")] = "",
    placebo: Annotated[bool, typer.Option("--placebo", help="Train a placebo of the same size too.")] = False,
    executor: opt.Executor = "ray",
    offline_ok: opt.OfflineOk = False,
    insecure: opt.Insecure = False,
    as_json: opt.AsJson = False,
) -> None:
    """Test whether guidance helped: pairs on fresh seeds and the test set, against tuned controls, with intervals.

    The best configurations of the search are trained beside their plain controls and the strongest control. A search
    with as many trials finds the strongest control first. After an interruption, the same command goes on.

    Example: `sweep confirm digits --top 2 --seeds 8 --placebo`
    """
    from .. import service
    from ..service import webhook
    from . import confirmation_tables

    webhook.check_webhooks(settings)
    to_stderr = as_json or settings.log == "json"
    console, notes = make_console(to_stderr=to_stderr), make_notes(to_stderr=to_stderr)
    methods = list(dict.fromkeys(method.strip() for method in against.split(",") if method.strip()))
    view = make_view(settings, console, as_json=as_json, executor=executor)
    views = list["Progress"]()  # one for each study that is run
    with (
        graceful(console) as (stop, caught),
        webhook_at_end(settings, views, partial(webhook.describe_confirmation, name)) as results,
    ):

        def listen(config: "StudyConfig", left: int | None) -> "Progress":
            views.append(view(config, notes, service.finished_rows(config, settings), left, stop=stop))
            return views[-1]

        options = service.RunOptions(stop=stop, offline_ok=offline_ok, insecure=insecure, executor=executor)
        plan = partial(service.confirm, name, settings, listen, top=top, seeds=seeds, against=methods, placebo=placebo)
        results.append(confirmation := plan(options=options))
    if confirmation is None:
        words = [f"--top {top}", f"--seeds {seeds}", *([f"--against {','.join(methods)}"] if methods else [])]
        words += [*(["--placebo"] if placebo else []), *(["--executor local"] if executor == "local" else [])]
        command = opt.command_line(settings, "confirm", name, *words)
        console.print(f"Interrupted; nothing is lost. Go on with:\n  {command}", soft_wrap=True)
        raise typer.Exit(exit_code(caught))
    if as_json:
        print_json(confirmation.as_data())
    elif settings.log == "text":
        confirmation_tables.print_confirmation(confirmation, console)
