"""Renders the recipes that start a cluster: the files beside this one, unchanged if no value is given."""

import difflib
import io
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .accelerators import ACCELERATORS, MACHINES, Machine

RAY = "2.60.0"  # driver and cluster must have the same version; the Dockerfile names it too
IMAGE = "entropy-sweep:0.1.0"
MEMORY_FOR_TRIALS = 0.6  # of a machine's memory; Ray and its object store need the rest
ENVIRONMENT = {  # variables of every Ray process that a recipe starts
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine that does not answer counts as lost after 15 s; with Ray's defaults after 64 s.
    "RAY_health_check_failure_threshold": "5",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "SWEEP_DATA": "/workspace/data",
    "SWEEP_WORKSPACE": "/workspace",
}


class RecipeError(ValueError):
    """Values that a recipe does not accept; each problem begins with the value's name."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class RecipeValues:
    """A user's values for a recipe; None keeps what the file says."""

    name: str | None = None  # of the cluster
    image: str | None = None  # built with `Dockerfile`, as the machines can pull it
    gpu: str | None = None  # a name in `ACCELERATORS`, or "none"
    max_workers: int | None = None  # machines beside the head, at most; with Slurm and compose exactly
    shared: str | None = None  # folder that all machines see, SERVER:/PATH of an NFS server
    region: str | None = None
    project: str | None = None  # in Google Cloud


def render_recipe(recipe: str, values: RecipeValues) -> str:
    """Returns the text of a recipe with a user's values; raises RecipeError if it does not accept them.

    Example:
        >>> text = render_recipe("slurm", RecipeValues(max_workers=4))
        >>> "#SBATCH --nodes=5" in text  # four workers and the head
        True
    """
    if recipe not in RECIPES:
        raise RecipeError([_unknown("recipe", recipe, RECIPES)])
    render, accepted = RECIPES[recipe]
    if problems := _problems(recipe, accepted, values):
        raise RecipeError(problems)
    return render(values)


def make_secrets(*, kubernetes: bool = False) -> str:
    """Returns new passwords and a token for `compose` and Kubernetes: lines ``NAME=value``, or two Secrets."""
    postgres, mlflow = (secrets.token_hex(16) for _ in range(2))
    database = f"postgresql+psycopg://sweep:{postgres}@postgres:5432"
    known = {
        "POSTGRES_PASSWORD": postgres,
        "SWEEP_STORAGE": f"{database}/optuna",
        "MLFLOW_BACKEND_STORE_URI": f"{database}/mlflow",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": mlflow,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
    token = secrets.token_hex(32)
    if not kubernetes:
        return "".join(f"{name}={value}\n" for name, value in {**known, "RAY_AUTH_TOKEN": token}.items())
    services, ray = _read("kuberay/secrets.yaml")
    services["stringData"], ray["stringData"] = known, {"auth_token": token}
    return _text([services, ray])


def missing_values(recipe: str, values: RecipeValues) -> list[str]:
    """Returns the options that a recipe still needs before it can be used, one sentence each."""
    found = []
    if recipe in ("aws", "gcp", "kuberay") and "/" not in (values.image or ""):
        found.append(f"--image REGISTRY/{IMAGE}: machines pull the image that you have pushed")
    if recipe in ("aws", "gcp") and values.shared is None:
        found.append("--shared SERVER:/PATH: an NFS server (EFS, Filestore) for the workspace; a study needs one")
    if recipe == "gcp" and values.project is None:
        found.append("--project: your project in Google Cloud")
    return found


def _aws(values: RecipeValues) -> str:
    (config,) = _read("aws.yaml")
    worker = _ray_up(config, values)
    if values.gpu is not None:
        worker["node_config"]["InstanceType"] = _machine(values.gpu, "aws", worker["resources"]).name
    return _text([config])


def _gcp(values: RecipeValues) -> str:
    (config,) = _read("gcp.yaml")
    worker = _ray_up(config, values)
    if values.region is not None:
        config["provider"]["availability_zone"] = f"{values.region}-a"
    if values.project is not None:
        config["provider"]["project_id"] = values.project
    if values.gpu is not None:
        node, machine = worker["node_config"], _machine(values.gpu, "gcp", worker["resources"])
        node["machineType"] = machine.name
        if machine.gpus:
            kind = ACCELERATORS[values.gpu].google
            node["guestAccelerators"][0].update(acceleratorType=kind, acceleratorCount=machine.gpus)
        else:
            del node["guestAccelerators"], node["metadata"]
    return _text([config])


def _ray_up(config: Any, values: RecipeValues) -> Any:
    """Sets the values that `ray up` files have in common; returns the worker's node type."""
    config["cluster_name"] = values.name or config["cluster_name"]
    config["docker"]["image"] = values.image or IMAGE
    kept = [option for option in config["docker"]["run_options"] if not option.startswith("--env ")]
    config["docker"]["run_options"][:] = [*kept, *(f"--env {name}={value}" for name, value in ENVIRONMENT.items())]
    config["provider"]["region"] = values.region or config["provider"]["region"]
    worker = config["available_node_types"]["worker"]
    config["max_workers"] = worker["max_workers"] = values.max_workers or config["max_workers"]
    if values.shared is not None:
        mount = f"sudo mount -t nfs4 -o hard,noresvport {values.shared} /mnt/sweep"
        config["initialization_commands"][:] = [
            "command -v mount.nfs4 || (sudo apt-get update && sudo apt-get install -y nfs-common)",
            f"sudo mkdir -p /mnt/sweep && (mountpoint -q /mnt/sweep || {mount})",
            "sudo chown ubuntu /mnt/sweep",
        ]
    return worker


def _machine(gpu: str, cloud: str, resources: Any) -> Machine:
    """Returns a cloud's machine; changes ``resources``, which Ray expects it to have, in place."""
    resources.clear()
    machine = MACHINES[cloud][gpu]
    resources["CPU"] = machine.cpus
    if gpu != "none":
        resources.update({"GPU": machine.gpus, f"accelerator_type:{ACCELERATORS[gpu].ray}": 1})
    if machine.memory:
        resources["memory"] = int(MEMORY_FOR_TRIALS * machine.memory * 2**30)
    return machine


def _kuberay(values: RecipeValues) -> str:
    documents = [doc for file in ("postgres", "mlflow", "raycluster") for doc in _read(f"kuberay/{file}.yaml")]
    (cluster,) = (doc for doc in documents if doc["kind"] == "RayCluster")
    mlflow = next(doc for doc in documents if doc["kind"] == "Deployment")
    mlflow["spec"]["template"]["spec"]["containers"][0]["image"] = values.image or IMAGE
    cluster["metadata"]["name"] = values.name or cluster["metadata"]["name"]
    spec = cluster["spec"]
    spec["rayVersion"] = RAY
    (workers,) = spec["workerGroupSpecs"]
    workers["maxReplicas"] = values.max_workers or workers["maxReplicas"]
    for group in (spec["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        container["image"] = values.image or IMAGE
        own = [variable for variable in container.get("env", []) if variable["name"] not in ENVIRONMENT]
        # The operator itself enables the token, by authOptions.
        container["env"] = own + [{"name": k, "value": v} for k, v in ENVIRONMENT.items() if k != "RAY_AUTH_MODE"]
        if values.shared is not None:
            server, _, path = values.shared.partition(":")
            group["template"]["spec"]["volumes"][0] = {"name": "workspace", "nfs": {"server": server, "path": path}}
    if values.shared is not None:
        documents = [doc for doc in documents if doc["metadata"]["name"] != "entropy-sweep-workspace"]
    if values.gpu is not None:
        _select_nodes(workers["template"]["spec"], values.gpu)
        # The autoscaler cannot derive the accelerator from a pod.
        kind = "" if values.gpu == "none" else rf'"{{\"accelerator_type:{ACCELERATORS[values.gpu].ray}\": 1}}"'
        workers["rayStartParams"] = {"resources": kind} if kind else {}
    return _text(documents)


def _select_nodes(pod: Any, gpu: str) -> None:
    """Restricts workers to nodes with an accelerator, by the labels of clouds and NVIDIA's operator."""
    limits = pod["containers"][0]["resources"]["limits"]
    if gpu == "none":
        del pod["affinity"], limits["nvidia.com/gpu"]
        return
    accelerator = ACCELERATORS[gpu]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    for term, names in zip(terms, ([accelerator.google], [gpu], list(accelerator.products)), strict=True):
        term["matchExpressions"][0]["values"] = names
    if not accelerator.google:
        del terms[0]


def _rayjob(values: RecipeValues) -> str:
    (job,) = _read("kuberay/rayjob.yaml")
    if values.name is not None:
        job["spec"]["clusterSelector"]["ray.io/cluster"] = values.name
    return _text([job])


def _compose(values: RecipeValues) -> str:
    (config,) = _read("compose.yaml")
    config["name"] = values.name or config["name"]
    services = config["services"]
    for name in ("mlflow", "head", "worker"):
        services[name]["image"] = values.image or IMAGE
    for name in ("head", "worker"):
        services[name]["environment"].update(ENVIRONMENT)
    deploy = services["worker"]["deploy"]
    deploy["replicas"] = values.max_workers or deploy["replicas"]
    if values.gpu not in (None, "none"):
        deploy["replicas"] = 1
        devices = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
        deploy["resources"] = {"reservations": {"devices": devices}}
        services["worker"]["command"] = services["worker"]["command"].removesuffix(" --num-cpus=2")
    return _text([config])


def _slurm(values: RecipeValues) -> str:
    text = (Path(__file__).parent / "slurm.sh").read_text()
    lines = {
        "#SBATCH --job-name=": values.name,
        "#SBATCH --nodes=": values.max_workers and values.max_workers + 1,
        "IMAGE=": values.image and f"${{IMAGE:-{values.image}}}",
    }
    for start, value in lines.items():
        if value is not None:
            text = re.sub(rf"(?m)^{start}.*$", f"{start}{value}", text)
    if values.gpu not in (None, "none"):
        text = text.replace("#SBATCH --exclusive\n", f"#SBATCH --exclusive\n#SBATCH --gpus-per-node={values.gpu}:1\n")
    return text


RECIPES: dict[str, tuple[Callable[[RecipeValues], str], tuple[str, ...]]] = {  # what renders it, what it accepts
    "aws": (_aws, ("name", "image", "gpu", "max_workers", "shared", "region")),
    "gcp": (_gcp, ("name", "image", "gpu", "max_workers", "shared", "region", "project")),
    "kuberay": (_kuberay, ("name", "image", "gpu", "max_workers", "shared")),
    "rayjob": (_rayjob, ("name",)),
    "slurm": (_slurm, ("name", "image", "gpu", "max_workers")),
    "compose": (_compose, ("name", "image", "gpu", "max_workers")),
}
PATTERNS = {"name": "[a-z][a-z0-9-]{0,39}", "region": "[a-z0-9-]+", "project": "[a-z0-9.:-]+", "image": r"[\w.:/@-]+"}


def _problems(recipe: str, accepted: Sequence[str], values: RecipeValues) -> list[str]:
    unused = [name for name, value in asdict(values).items() if value is not None and name not in accepted]
    problems = [f"{name}: {recipe} does not use it; it accepts {', '.join(accepted)}" for name in unused]
    if values.gpu is not None and "gpu" in accepted:
        there = MACHINES.get(recipe, [*ACCELERATORS, "none"])  # a cloud knows only the accelerators that it rents out
        if values.gpu not in there:
            problems.append(_unknown("gpu", values.gpu, there, f" on {recipe}"))
        elif recipe == "compose" and values.gpu != "none" and values.max_workers is not None:
            problems.append("max_workers: with a GPU one worker has all GPUs of the machine; leave it out")
    if values.max_workers is not None and values.max_workers < 1:
        problems.append(f"max_workers: must be at least 1 (got {values.max_workers})")
    if values.shared is not None and not re.fullmatch(r"[\w.-]+:/[\w./-]*", values.shared):
        problems.append(f"shared: must be SERVER:/PATH of an NFS server (got {values.shared!r})")
    for name, pattern in PATTERNS.items():
        if (given := getattr(values, name)) is not None and not re.fullmatch(pattern, given):
            problems.append(f"{name}: must match {pattern} (got {given!r})")
    return problems


def _unknown(what: str, given: str, known: Iterable[str], where: str = "") -> str:
    near = difflib.get_close_matches(given, list(known), n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{what}: {given!r} is not known{where}{meant}; known: {', '.join(known)}"


def _yaml() -> YAML:
    yaml = YAML()  # keeps comments
    yaml.width = 10**6
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _read(file: str) -> list[Any]:
    return list(_yaml().load_all((Path(__file__).parent / file).read_text()))


def _text(documents: Sequence[Any]) -> str:
    stream = io.StringIO()
    _yaml().dump_all(documents, stream)
    return stream.getvalue()
