"""Commands about what a study leaves on disk: gc, export, import."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import AsJson, Storage, Workspace, make_settings
from .output import make_console, print_json


def gc(
    name: Annotated[str | None, typer.Argument(help="Name of a study; without it, all studies.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="The best trials of the search keep their weights: how many.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be freed; remove nothing.")] = False,
    workspace: Workspace = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Remove the weights of finished trials beyond the best; all trials keep their metrics, and can be replayed.

    Example: `python -m sweep gc digits --keep 3 --dry-run`
    """
    import dataclasses

    from .. import service
    from ..cleaning import clean

    settings, console = make_settings(workspace=workspace, storage=storage), make_console(to_stderr=as_json)
    names = [name] if name else service.studies(settings)
    freed = [clean(each, settings, keep=keep, dry_run=dry_run) for each in names]
    if as_json:
        print_json([dataclasses.asdict(each) for each in freed])
        return
    for each in freed:
        verb = "would free" if dry_run else "freed"
        best = ", ".join(map(str, each.kept)) or "none has completed"
        console.print(
            f"{each.study}: {verb} {each.bytes / 1e6:.1f} MB, the weights of {each.trials} finished trials; kept are "
            f"those of the best ({best}) and of what is not finished",
            soft_wrap=True,
        )
    if not names:
        console.print("No study yet.")
