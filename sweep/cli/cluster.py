"""Commands that write what starts a cluster: recipes, and the passwords they ask for."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import make_console

cluster = typer.Typer(name="cluster", help="Recipes that start a cluster.", no_args_is_help=True)


@cluster.command()
def render(
    recipe: Annotated[str, typer.Argument(help="aws, gcp (ray up); kuberay, rayjob; slurm; compose.")],
    gpu: Annotated[str | None, typer.Option(help="Accelerator of the workers: t4, l4, a10g, a100, h100; none.")] = None,
    max_workers: Annotated[int | None, typer.Option(help="Machines beside the head.")] = None,
    image: Annotated[str | None, typer.Option(help="Where the machines pull the image from.")] = None,
    shared: Annotated[str | None, typer.Option(help="SERVER:/PATH (NFS) of the folder that all machines see.")] = None,
    region: Annotated[str | None, typer.Option(help="Of the cloud.")] = None,
    project: Annotated[str | None, typer.Option(help="Google Cloud's.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the cluster, where there are several.")] = None,
) -> None:
    """Print a recipe with your values; cluster/README.md says how to use it.

    Example: `sweep cluster render aws --gpu a10g --max-workers 16 > my.yaml`
    """
    from ..cluster.recipes import RecipeError, Values, missing
    from ..cluster.recipes import render as rendered
    from ..config.errors import ConfigError

    values = Values(name, image, gpu, max_workers, shared, region, project)
    try:
        print(rendered(recipe, values), end="")
    except RecipeError as error:
        raise ConfigError(f"cluster render {recipe}", error.problems) from None
    console = make_console(to_stderr=True)
    for each in missing(recipe, values):
        console.print(f"[yellow]still to be said:[/] {each}", soft_wrap=True)


@cluster.command()
def secrets(
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="As Secrets, for kubectl apply.")] = False,
) -> None:
    """Print fresh passwords and a token, for the recipes compose and kuberay. Keep them: nothing else does.

    Example: `sweep cluster secrets > sweep.env`, after `umask 077`
    """
    from ..cluster.recipes import secrets as made

    print(made(kubernetes=kubernetes), end="")
