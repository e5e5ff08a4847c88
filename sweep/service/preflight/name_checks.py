"""Checks the names in a study file: models, data sets, tasks, options, and import paths of the user's own code."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ...config.errors import nearest
from ...config.search_space import ALIASES, is_of_guidance
from ...config.sections import METRIC, DataConfig, TaskConfig
from ...config.user_code import ImportPathError, import_object, is_import_path
from ...config.user_command import check_command
from ...models import MODELS, SIZES, model_class, options, takes_any


def check_names(raw: Mapping[str, Any]) -> list[str]:
    """Returns problems with the names in a study, whose other parts may be wrong too."""
    from ...data.loading import DATASETS, check_options

    problems = []
    for section, known in (("model", list(MODELS)), ("data", list(DATASETS))):
        name = _mapping(raw, section).get("name")
        if isinstance(name, str) and is_import_path(name):
            problems += _check_callable(f"{section}.name", name)
        elif isinstance(name, str) and name not in known:
            problems.append(
                f"{section}.name: unknown {section} {name!r}{nearest(name, known)}; one of {', '.join(known)}, or one "
                "of your own as package.module:name"
            )
    for key in ("sampler", "pruner"):
        path = _mapping(raw, "search").get(key)
        problems += _check_callable(f"search.{key}", path) if isinstance(path, str) and is_import_path(path) else []
    data, task = _mapping(raw, "data"), _mapping(raw, "task")
    if isinstance(name := data.get("name"), str) and (name in DATASETS or is_import_path(name)):
        problems += check_options(name, [k for k in DataConfig.model_fields if data.get(k) is not None])
    if isinstance(function := raw.get("function"), str):
        return problems + _check_function(function) + _check_objective(raw)
    if isinstance(command := raw.get("command"), list | tuple):
        names = dict.fromkeys([*map(str, _mapping(raw, "space")), *filter(is_of_guidance, ALIASES)])
        return problems + check_command([*map(str, command)], [*names]) + _check_objective(raw)
    own = {"task.loss": task.get("loss"), **{f"task.metrics.{n}": p for n, p in _mapping(task, "metrics").items()}}
    for key, path in own.items():
        problems += _check_callable(key, path) if isinstance(path, str) else []
    cls = _family(raw)
    return problems if cls is None else problems + _check_options(raw) + _check_task(raw, cls)


def _check_callable(key: str, path: str) -> list[str]:
    try:
        found = import_object(path)
    except ImportPathError as error:
        return [f"{key}: {error}"]
    kind = type(found).__name__
    return [] if callable(found) else [f"{key}: {path} must be a class or a function, not of the type {kind}"]


def _check_function(path: str) -> list[str]:
    """Returns problems of a training function of the user's own."""
    problems = _check_callable("function", path)
    if not problems:
        with contextlib.suppress(ValueError):  # a function without a signature, of C
            try:
                inspect.signature(import_object(path)).bind(None)
            except TypeError:
                problems.append(f"function: {path} must take one argument, the trial, and no other that is required")
    return problems


def _check_objective(raw: Mapping[str, Any]) -> list[str]:
    """Returns problems of the objective that the user's own code is to report."""
    metric, problems = _mapping(raw, "objective").get("metric"), list[str]()
    if isinstance(metric, str) and (metric in _mapping(raw, "space") or not METRIC.fullmatch(metric)):
        named = "is the name of a hyperparameter" if metric in raw["space"] else "has other characters than a name's"
        problems.append(f"objective.metric: {metric!r} {named} (letters, digits, '_', '-', '.', '/', blanks)")
    return problems


def _family(raw: Mapping[str, Any]) -> object:
    """Returns the model's class, or None if there is none that can be called."""
    name = _mapping(raw, "model").get("name")
    if not isinstance(name, str) or (name not in MODELS and (not is_import_path(name) or _check_callable("", name))):
        return None
    return model_class(name)


def _check_options(raw: Mapping[str, Any]) -> list[str]:
    model, space = _mapping(raw, "model"), _mapping(raw, "space")
    name, sizes = str(model["name"]), ("depth", "width")
    try:
        known, parameters = list(options(name)), inspect.signature(model_class(name)).parameters
    except (TypeError, ValueError) as error:  # such as a class of Python's own
        return [f"model.name: {name} cannot be a model: {error}"]
    searched = [str(n).removeprefix("model.") for n in space if str(n).startswith("model.")]
    problems = []
    if not takes_any(parameters):
        missing = [size for size in SIZES if size not in parameters]
        if missing:
            problems.append(f"model.name: {name} must take {', '.join(SIZES)} by name; it lacks {', '.join(missing)}")
        problems += [
            f"model.{option}: {name} has no such option{nearest(option, known)}; it has {', '.join([*sizes, *known])}"
            for option in [str(o) for o in [*model, *searched]]
            if option not in ("name", *sizes, *known)
        ]
    return problems + [
        f"space.{size}: required, as a range, choices or a constant"
        for size in sizes
        if size not in space and model.get(size) is None
    ]


def _check_task(raw: Mapping[str, Any], cls: object) -> list[str]:
    from ...losses.task import TASKS
    from ...training.trial import task_kind, task_of

    name = _mapping(raw, "model")["name"]
    try:
        config = TaskConfig.model_validate(_mapping(raw, "task"))
        kind, of_model = task_kind(config, cls), getattr(cls, "task", None)
        if kind not in TASKS:
            return [f"model.name: {name}.task is {kind!r}, but must be one of {', '.join(TASKS)}"]
        if of_model in TASKS and kind != of_model:
            return [f"task.kind: {name} is for {of_model}, not {kind}; leave it out"]
        present = task_of(config.model_copy(update={"metrics": {}}), cls).metric_names
    except (ValidationError, ImportPathError):
        return []  # reported by another check
    taken = [name for name in config.metrics if name in present]
    problems = [f"task.metrics.{each}: {kind} has a metric of this name; choose another" for each in taken]
    metric, metrics = _mapping(raw, "objective").get("metric"), [f"val_{n}" for n in (*present, *config.metrics)]
    if isinstance(metric, str) and metric not in metrics:
        lacking = f"{name} has no {metric!r}{nearest(metric, metrics)}"
        problems.append(f"objective.metric: {lacking}; it has {', '.join(metrics)}")
    return problems


def _mapping(raw: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    part = raw.get(section)
    return part if isinstance(part, Mapping) else {}
