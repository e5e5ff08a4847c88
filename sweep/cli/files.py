"""Commands for the files of a study: init, gc, export, import."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, NameArg, StudySettings, command_line, make_settings
from .output import make_console, print_json

if TYPE_CHECKING:
    from ..service.maintenance.archive import Archived


def init(
    name: Annotated[str, typer.Argument(help="Name of the new study; its file is NAME.yaml in the current folder.")],
    model: Annotated[str | None, typer.Option(help="A model (mlp), or your own package.module:Class.")] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set (digits), your own package.module:load, or a folder of images.")
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="Your own training function, package.module:name, in place of both.")
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(help="Your own script, as in a shell, with hyperparameters in braces, in place of both."),
    ] = None,
) -> None:
    """Write a commented study file that runs as it is: the keys that a beginner may want, meanings and defaults.

    Examples: `sweep init first`, `sweep init second --model cnn --data mnist`, `sweep init mine --function loop:train`,
    `sweep init other --command "python train.py --lr {lr}"`
    """
    from .. import service

    path = service.write_starter(name, make_settings(), model=model, data=data, function=function, command=command)
    make_console().print(f"Wrote {path}. Run it with: sweep run {path}", soft_wrap=True)


def gc(
    settings: StudySettings,
    name: Annotated[str | None, typer.Argument(help="Name of a study; without it, all studies.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of best trials that keep their weights.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be freed; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the weights of finished trials except the best; all trials keep their metrics and can be replayed.

    Example: `sweep gc digits --keep 3 --dry-run`
    """
    from .. import service
    from ..service.maintenance.gc import collect_garbage

    console = make_console(to_stderr=as_json)
    names = [name] if name else service.study_names_of_ours(settings)
    freed = [collect_garbage(each, settings, keep=keep, dry_run=dry_run) for each in names]
    if as_json:
        print_json([dataclasses.asdict(each) for each in freed])
        return
    for each in freed:
        verb = "would free" if dry_run else "freed"
        best = ", ".join(map(str, each.kept)) or "none has completed"
        console.print(
            f"{each.study}: {verb} {each.bytes / 1e6:.1f} MB, the weights of {each.trials} finished trials; kept are "
            f"those of the best ({best}) and of what is not finished",
            soft_wrap=not console.is_terminal,
        )
    if not names:
        console.print("No study yet.")


def export(
    settings: StudySettings,
    name: NameArg,
    file: Annotated[Path, typer.Argument(help="The zip file to write.")],
    keep: Annotated[int, typer.Option(min=0, help="Number of best trials that are exported with weights.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Write a study into one file: config, all trials with metrics, the best weights, everything for a resume.

    Example: `sweep export digits digits.zip`
    """
    from ..service.maintenance.archive import export_study

    archived = export_study(name, file, settings, keep=keep)
    _print_archived("Wrote", archived, f"Import it elsewhere with: sweep import {file.name}", as_json=as_json)


def import_(
    settings: StudySettings,
    file: Annotated[Path, typer.Argument(help="A file that sweep export has written.")],
    as_json: AsJson = False,
) -> None:
    """Import an exported study: it resumes here as if it had been interrupted here.

    Example: `sweep import digits.zip`
    """
    from ..service.maintenance.archive import import_study

    archived = import_study(file, settings)
    command = command_line(settings, "run", archived.study)
    _print_archived("Imported", archived, f"Go on with: {command}", as_json=as_json)


def _print_archived(verb: str, archived: "Archived", then: str, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(archived))
        return
    also = [*archived.rivals, f"the weights of {', '.join(archived.weights) or 'none'}"]
    make_console().print(
        f"{verb} {archived.file}, {archived.bytes / 1e6:.1f} MB: {archived.study}, {archived.trials} trials, "
        f"{archived.controls} finalists, controls and pairs, {', '.join(also)}.\n{then}",
        soft_wrap=True,
    )
