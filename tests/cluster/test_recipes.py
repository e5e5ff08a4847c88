"""Recipes: each is what the tool that will read it takes, with any accelerator, and says what it must in one place."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from compose_spec import PyCompose
from kubernetes_validate import validate as validate_kubernetes
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.kuberay.autoscaling_config import _get_ray_resources_from_group_spec
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML
from typer.main import get_command
from typer.testing import CliRunner

from sweep.cli.app import app
from sweep.cluster import recipes
from sweep.cluster.jobs import STOP_SECONDS
from sweep.cluster.recipes import (
    ACCELERATORS,
    ENVIRONMENT,
    IMAGE,
    MACHINES,
    RAY,
    RECIPES,
    RecipeError,
    RecipeValues,
    make_secrets,
    missing_values,
    render_recipe,
)

FOLDER = Path(__file__).parents[2] / "cluster"
FILES = {
    "aws": ["aws.yaml"],
    "gcp": ["gcp.yaml"],
    "kuberay": ["kuberay/postgres.yaml", "kuberay/mlflow.yaml", "kuberay/raycluster.yaml"],
    "rayjob": ["kuberay/rayjob.yaml"],
    "slurm": ["slurm.sh"],
    "compose": ["compose.yaml"],
}
KUBERNETES = "1.37.0"


def documents(text: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(text))


def rendered(recipe: str, **values: Any) -> Any:
    return documents(render_recipe(recipe, RecipeValues(**values)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_file_is_what_is_rendered_without_values(recipe: str) -> None:
    assert render_recipe(recipe, RecipeValues()) == "---\n".join((FOLDER / file).read_text() for file in FILES[recipe])


# -- ray up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cloud", "gpu"),
    [
        (cloud, gpu)
        for cloud in ("aws", "gcp")
        for gpu in (None, "none", *ACCELERATORS)
        if gpu is None or gpu in MACHINES[cloud]
    ],
)
def test_ray_takes_it_with_any_accelerator(cloud: str, gpu: str | None) -> None:
    (config,) = rendered(cloud, gpu=gpu, max_workers=16, shared="10.0.0.2:/share", image="registry.example/sweep:1")
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    worker = types["worker"]
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert (worker["min_workers"], worker["max_workers"], config["max_workers"]) == (0, 16, 16)
    assert worker["resources"].get("GPU", 0) == (0 if gpu == "none" else worker["resources"]["GPU"])
    kinds = [name for name in worker["resources"] if name.startswith("accelerator_type:")]
    if gpu in ACCELERATORS:
        assert kinds == [f"accelerator_type:{ACCELERATORS[gpu].ray}"]
        assert worker["resources"]["GPU"] >= 1
    assert ("memory" in worker["resources"]) == (cloud == "gcp"), "Ray itself asks AWS alone"
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if cloud == "aws" else {"provisioningModel": "SPOT"}
    where = worker["node_config"] if cloud == "aws" else worker["node_config"]["scheduling"]
    assert spot.items() <= where.items()
    assert "spot" not in str(types["head"]).lower()
    assert config["docker"]["image"] == "registry.example/sweep:1"
    assert any("mount -t nfs4" in c and "10.0.0.2:/share /mnt/sweep" in c for c in config["initialization_commands"])


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_takes_it_as_it_is(cloud: str) -> None:
    validate_config(prepare_config(rendered(cloud)[0]))


def test_the_names_of_accelerators_are_rays() -> None:
    from ray.util import accelerators

    known = {value for name, value in vars(accelerators).items() if name.isupper() and isinstance(value, str)}
    assert {accelerator.ray for accelerator in ACCELERATORS.values()} <= known


@pytest.mark.parametrize("change", [{"head_node_type": "heads"}, {"dcoker": {}}, {"max_workers": "many"}])
def test_rays_own_check_would_refuse_a_broken_one(change: dict[str, Any]) -> None:
    (config,) = rendered("aws")
    with pytest.raises(Exception, match=r"head_node_type|dcoker|many"):
        validate_config(prepare_config({**config, **change}))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_cloud_shows_its_dashboard_to_the_head_alone(cloud: str) -> None:
    (config,) = rendered(cloud)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert {f"--env {name}={value}" for name, value in ENVIRONMENT.items()} <= set(config["docker"]["run_options"])


def test_region_and_project_go_where_they_belong() -> None:
    (config,) = rendered("gcp", region="europe-west4", project="mine")
    assert config["provider"] == {
        "type": "gcp",
        "region": "europe-west4",
        "availability_zone": "europe-west4-a",
        "project_id": "mine",
    }
    assert rendered("aws", region="eu-west-1")[0]["provider"]["region"] == "eu-west-1"


# -- Kubernetes --------------------------------------------------------------------------------------------------------

SCHEMAS = json.loads((Path(__file__).parents[1] / "schemas" / "kuberay.json").read_text())


def check_manifest(manifest: dict[str, Any]) -> None:
    """Against Kubernetes' own schemas, strictly; of KubeRay's kinds the pods too.

    Raises:
        Exception: an unknown key or a value of another type.
    """
    schema = SCHEMAS.get(manifest["kind"])
    if schema is None:
        validate_kubernetes(manifest, KUBERNETES, strict=True)
        return
    jsonschema.validate(manifest, schema)
    spec = manifest["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if manifest["kind"] == "RayCluster" else []:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        validate_kubernetes(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(("gpu", "shared"), [(None, None), ("none", "10.0.0.2:/share"), ("a10g", None)])
def test_kubernetes_takes_all_manifests(gpu: str | None, shared: str | None) -> None:
    manifests = [
        *rendered("kuberay", gpu=gpu, shared=shared, max_workers=9, image="registry.example/sweep:1"),
        *rendered("rayjob"),
        *documents(make_secrets(kubernetes=True)),
    ]
    for manifest in manifests:
        check_manifest(manifest)
    (cluster,) = (m for m in manifests if m["kind"] == "RayCluster")
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (0, 9)
    assert ("nvidia.com/gpu" in str(workers["template"]["spec"]["containers"])) == (gpu != "none")
    # What Ray's autoscaler takes a pod that is not there yet for.
    resources = _get_ray_resources_from_group_spec(workers, is_head=False)
    kinds = [] if gpu == "none" else [f"accelerator_type:{ACCELERATORS[gpu or 'l4'].ray}"]
    assert [name for name in resources if name.startswith("accelerator_type:")] == kinds
    assert resources["memory"] == 12 * 2**30
    images = set(re.findall(r"'image': '([^']*)'", str(manifests)))
    assert images == {"registry.example/sweep:1", "postgres:17"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["spec"].update(rayVersin="2.60.0"),
        lambda c: c["spec"]["headGroupSpec"].update(rayStartParams={"num-cpus": 0}),
        lambda c: c["spec"]["workerGroupSpecs"][0].update(maxReplicas="9"),
        lambda c: c["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(imagge="x"),
    ],
)
def test_a_broken_manifest_would_be_refused(spoil: Any) -> None:
    (cluster,) = (m for m in rendered("kuberay") if m["kind"] == "RayCluster")
    check_manifest(cluster)
    spoil(cluster)
    with pytest.raises(Exception, match=r"rayVersin|not of type|imagge"):
        check_manifest(cluster)


def test_what_the_manifests_refer_to_exists() -> None:
    manifests = [*rendered("kuberay"), *documents(make_secrets(kubernetes=True))]
    text = str(manifests)
    keys = {(m["metadata"]["name"], key) for m in manifests if m["kind"] == "Secret" for key in m["stringData"]}
    refers = set(re.findall(r"'secretKeyRef': \{'name': '([^']*)', 'key': '([^']*)'\}", text))
    assert refers
    assert refers <= keys
    assert ("entropy-sweep-ray", "auth_token") in keys  # KubeRay's name for it
    claims = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    assert set(re.findall(r"'claimName': '([^']*)'", text)) == claims
    labels = {
        str(m["spec"]["template"]["metadata"]["labels"])
        for m in manifests
        if m["kind"] in ("Deployment", "StatefulSet")
    }
    assert {str(m["spec"]["selector"]) for m in manifests if m["kind"] == "Service"} == labels
    (cluster,) = (m for m in manifests if m["kind"] == "RayCluster")
    (job,) = rendered("rayjob")
    assert job["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    assert cluster["spec"]["rayVersion"] == RAY


def test_a_job_is_one_that_the_operator_takes_and_has_time_for_checkpoints() -> None:
    """KubeRay's validateDeletionConfiguration, 1.5 to 1.7: no time to live without shutdownAfterJobFinishes."""
    (job,) = rendered("rayjob")
    assert "ttlSecondsAfterFinished" not in job["spec"]
    (environment,) = documents(job["spec"]["runtimeEnvYAML"])
    assert environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_SECONDS)


def test_the_operator_is_one_that_knows_the_secret_of_a_cluster() -> None:
    """``authOptions.secretName`` came with KubeRay 1.6.0."""
    folder = Path(recipes.__file__).parent
    for file in ("README.md", "kuberay/raycluster.yaml"):
        assert re.findall(r"1\.\d+ or newer", (folder / file).read_text()) == ["1.6 or newer"]


def test_a_worker_fits_a_machine_of_four_processors() -> None:
    """Of which Kubernetes keeps a part: the smallest machines with an L4."""
    (cluster,) = (m for m in rendered("kuberay") if m["kind"] == "RayCluster")
    (container,) = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert float(container["resources"]["requests"]["cpu"]) <= 3.5


def test_the_database_of_the_first_start_is_not_taken_for_the_databases() -> None:
    """PostgreSQL's image begins with a server on its socket alone, which has no database of MLflow yet."""
    (postgres,) = (m for m in rendered("kuberay") if m["kind"] == "StatefulSet")
    (config,) = rendered("compose")
    for check in (str(postgres), str(config["services"]["postgres"])):
        assert "'pg_isready', '-h', '127.0.0.1'" in check


def test_workers_get_no_password() -> None:
    (cluster,) = (m for m in rendered("kuberay") if m["kind"] == "RayCluster")
    assert "secretKeyRef" in str(cluster["spec"]["headGroupSpec"])
    assert "secret" not in str(cluster["spec"]["workerGroupSpecs"]).lower()
    (config,) = rendered("compose")
    assert set(config["services"]["worker"]["environment"]) == {"RAY_AUTH_TOKEN", *ENVIRONMENT}


# -- compose -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, {"gpu": "l4"}, {"max_workers": 7, "name": "other", "image": "r.example/s:1"}])
def test_compose_takes_it(values: dict[str, Any]) -> None:
    text = render_recipe("compose", RecipeValues(**values))
    PyCompose.from_yaml(text)
    (config,) = documents(text)
    services = config["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(config["volumes"])
        assert {c["source"] for c in service.get("configs", [])} <= set(config["configs"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert services["worker"]["deploy"]["replicas"] == (1 if "gpu" in values else values.get("max_workers", 2))
    with pytest.raises(ValueError, match="imagge"):
        PyCompose.from_yaml(text.replace("image: postgres", "imagge: postgres"))


def test_the_secrets_are_those_that_compose_asks_for_and_fresh() -> None:
    made = dict(line.split("=", 1) for line in make_secrets().splitlines())
    assert set(re.findall(r"\$\{(\w+)", render_recipe("compose", RecipeValues()))) <= set(made)
    assert made["SWEEP_STORAGE"] == f"postgresql+psycopg://sweep:{made['POSTGRES_PASSWORD']}@postgres:5432/optuna"
    assert len(made["MLFLOW_TRACKING_PASSWORD"]) >= 12  # MLflow's minimum
    again = dict(line.split("=", 1) for line in make_secrets().splitlines())
    same = {name for name, value in made.items() if again[name] == value}
    assert same == {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME"}


# -- Slurm, the image, the package -------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, {"gpu": "a100", "max_workers": 3, "image": "r.example/s:1", "name": "mine"}])
def test_the_job_script_is_sound(values: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "my.sh"
    script.write_text(render_recipe("slurm", RecipeValues(**values)))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    lines = script.read_text().splitlines()
    exports = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export RAY_"))
    common = {name: value for name, value in ENVIRONMENT.items() if name.startswith("RAY_")}
    assert common.items() <= exports.items()
    if values:
        wanted = ["#SBATCH --nodes=4", "#SBATCH --gpus-per-node=a100:1", "#SBATCH --job-name=mine"]
        assert [line for line in wanted if line not in lines] == []
        assert "IMAGE=${IMAGE:-r.example/s:1}" in lines


def test_the_image_is_built_from_what_there_is() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[2:-1]]
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    setuptools = project["tool"]["setuptools"]
    packages = {name.partition(".")[0] for name in setuptools["packages"]} - {*setuptools["package-dir"]}
    assert {*packages, "pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} == set(
        copied
    )
    assert all((FOLDER.parent / path).exists() for path in copied)
    assert f"ARG RAY={RAY}" in lines
    assert f"#   docker build -f cluster/Dockerfile -t {IMAGE} ." in lines
    assert IMAGE.endswith(f":{project['project']['version']}")
    pip = "pip install --no-cache-dir"
    assert f"RUN {pip} --require-hashes -r cluster/constraints.txt && {pip} --no-deps ." in lines
    assert not any(line.startswith("ENTRYPOINT") for line in lines)  # `ray up` and KubeRay start a shell


def test_the_images_versions_are_those_that_the_package_allows_and_each_has_a_hash() -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    entries = re.findall(r"(?m)^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", _constraints())
    versions = {canonicalize_name(name): version for name, version, _ in entries}
    assert len(versions) == len(re.findall("(?m)^[a-z]", _constraints())) > 100
    extras = [each for name in ("cluster", "postgres", "s3") for each in project["optional-dependencies"][name]]
    for wanted in map(Requirement, [*project["dependencies"], *extras]):
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), f"make constraints: {wanted}"
    assert versions["ray"] == RAY


def _constraints() -> str:
    return (FOLDER / "constraints.txt").read_text()


def test_all_files_are_part_of_the_package() -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["cluster"]
    files = [str(f.relative_to(FOLDER)) for f in FOLDER.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert [f for f in files if not f.endswith(".py") and not any(fnmatch(f, p) for p in patterns)] == []


# -- what is wrong with values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "values", "words"),
    [
        ("aws", {"gpu": "a10"}, [["gpu: ", "'a10'", "on aws", "did you mean a10g?", "t4, l4, a10g, a100, h100, none"]]),
        ("gcp", {"gpu": "a10g"}, [["gpu: ", "'a10g' is not known on gcp", "t4, l4, a100, h100, none"]]),
        ("kubray", {}, [["recipe: ", "did you mean kuberay?", "aws, gcp, kuberay"]]),
        (
            "slurm",
            {"region": "x", "max_workers": 0},
            [["region: slurm does not use it"], ["max_workers: ", "at least 1"]],
        ),
        ("aws", {"shared": "/nfs", "name": "a b"}, [["shared: ", "SERVER:/PATH"], ["name: ", "'a b'"]]),
        ("gcp", {"image": "a; rm -rf /", "project": "x y"}, [["project: "], ["image: ", "rm -rf"]]),
        ("compose", {"gpu": "l4", "max_workers": 2}, [["max_workers: ", "leave it out"]]),
    ],
)
def test_wrong_values_are_named_all_at_once(recipe: str, values: dict[str, Any], words: list[list[str]]) -> None:
    with pytest.raises(RecipeError) as caught:
        render_recipe(recipe, RecipeValues(**values))
    assert len(caught.value.problems) == len(words)
    for said in words:
        assert any(all(word in problem for word in said) for problem in caught.value.problems), caught.value.problems


def test_what_is_still_to_be_said_is_said() -> None:
    assert [line.split()[0] for line in missing_values("gcp", RecipeValues())] == ["--image", "--shared", "--project:"]
    assert missing_values("compose", RecipeValues()) == []
    assert missing_values("aws", RecipeValues(image="r.example/s:1", shared="a:/b")) == []


def test_the_command_prints_the_recipe_alone_on_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweep", "cluster", "render"]
    done = subprocess.run(
        [*command, "aws", "--gpu", "a10g", "--max-workers", "16"], capture_output=True, text=True, check=True
    )
    assert done.stdout == render_recipe("aws", RecipeValues(gpu="a10g", max_workers=16))
    assert "--image" in done.stderr
    wrong = subprocess.run([*command, "aws", "--gpu", "a10"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "a10g" in wrong.stderr
    made = CliRunner().invoke(app, ["cluster", "secrets", "--kubernetes"])
    assert [doc["kind"] for doc in documents(made.stdout)] == ["Secret", "Secret"]


# -- the page ----------------------------------------------------------------------------------------------------------

PAGE = FOLDER / "README.md"
OURS_OR_SHELL = ("sweep", "set", ".", "umask", "tee", "export")
NOT_RUN = {  # what needs a cloud, a container engine, Slurm or a cluster of the reader's
    "aws iam",
    "docker build",
    "docker compose",
    "docker push",
    "kubectl apply",
    "kubectl create",
    "kubectl port-forward",
    "ray dashboard",
    "ray down",
    "ray drain-node",
    "ray get-auth-token",
    "ray rsync-up",
    "ray start",
    "ray up",
    "sbatch my.sh",
}


def commands() -> list[list[str]]:
    """The simple commands of the page's blocks, without assignments before them and redirections after them."""
    blocks = re.findall(r"(?m)^(?: {4}| {6,})(\S.*)$", PAGE.read_text())
    words = []
    for line in blocks:
        for simple in re.split(r"[|;&()]+", re.sub(r"\$\([^)]*\)|> ?\(.*?\)", "", line)):
            each = shlex.split(simple.partition(" >")[0])
            while each and "=" in each[0] and not each[0].startswith("-"):
                each.pop(0)
            words += [each] if each else []
    return words


def test_the_page_is_short_and_its_links_lead_somewhere() -> None:
    text = PAGE.read_text()
    assert len(text.encode()) <= 12_000
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^##+ (.*)$", text)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings


def test_every_recipe_of_the_page_is_rendered_as_it_says() -> None:
    given = [words[1:] for words in commands() if words[:2] == ["sweep", "cluster"]]
    assert {words[2] for words in given if words[1] == "render"} == set(RECIPES)
    for words in given:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
        assert "missing:" not in done.stderr, words


def test_every_other_command_of_the_page_exists_with_its_options() -> None:
    root: Any = get_command(app)
    others = {" ".join(words[:2]) for words in commands() if words[0] not in OURS_OR_SHELL}
    assert others == NOT_RUN
    ours = [words[1:] for words in commands() if words[0] == "sweep" and words[1] != "cluster"]
    assert len(ours) > 8
    for name, *words in ours:
        command = root.commands[name]
        while getattr(command, "commands", None):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, (name, words)
