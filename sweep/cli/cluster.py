"""Commands that print recipes for clusters, and the passwords that recipes need."""

from typing import Annotated

import typer

from ..config.errors import ConfigError
from .output import make_console

cluster = typer.Typer(name="cluster", help="Recipes that start a cluster.", no_args_is_help=True)


@cluster.command()
def render(
    recipe: Annotated[str, typer.Argument(help="aws, gcp (ray up); kuberay, rayjob; slurm; compose.")],
    gpu: Annotated[str | None, typer.Option(help="Accelerator of the workers: t4, l4, a10g, a100, h100; none.")] = None,
    max_workers: Annotated[int | None, typer.Option(help="Machines beside the head.")] = None,
    image: Annotated[str | None, typer.Option(help="Image that the machines pull.")] = None,
    shared: Annotated[str | None, typer.Option(help="SERVER:/PATH (NFS) that all machines share.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of the cloud.")] = None,
    project: Annotated[str | None, typer.Option(help="Google Cloud project.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster, if there are several.")] = None,
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
        console.print(f"[yellow]missing:[/] {each}", soft_wrap=True)


@cluster.command()
def secrets(
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Print Secrets, for kubectl apply.")] = False,
) -> None:
    """Print fresh passwords and a token, for the recipes compose and kuberay. Keep them: nothing else stores them.

    Example: `sweep cluster secrets > sweep.env`, after `umask 077`
    """
    from ..cluster.recipes import make_secrets

    print(make_secrets(kubernetes=kubernetes), end="")
