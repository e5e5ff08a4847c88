"""Checks a study for impossible sizes, unfit data and hyperparameters without effect."""

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from ...config.errors import DataError
from ...config.search_space import Choices, Range, Scalar
from ...config.sections import DataConfig
from ...config.settings import Settings
from ...config.study_config import StudyConfig
from ...config.user_code import is_import_path
from ...data.datasets import DatasetInfo
from ...data.loading import find_reader, prepare_dataset, split_sizes
from ...losses import EntropyGuidance, GuidanceWarning
from ...losses.task import TASKS
from ...losses.unguided import by_reason
from ...models import model_class
from ...training.loop import has_batch_norm
from ...training.trial import build, task_kind
from .name_checks import check_names
from .user_code_checks import check_model, check_task

CORNERS_WITH_WEIGHTS = 4  # corners at which a model of the user's own is built with weights if it fails without
CORNERS = 512  # models to build at most, in search of an impossible one


def check_study(config: StudyConfig, settings: Settings) -> tuple[list[str], list[str]]:
    """Searches for what would make trials fail, before any starts; returns problems, and warnings."""
    problems = check_names(config.model_dump())
    info, unfit = None, list[str]()
    if not any(p.startswith("data.") for p in problems):
        family = not any(p.startswith(("model.name", "task.kind")) for p in problems)
        info, unfit = _check_data(config, settings, family=family)
    buildable = all(problem.startswith(("objective.", "task.loss", "task.metrics")) for problem in problems)
    problems += unfit
    if buildable and info is not None:
        impossible, warnings = _check_sizes(config, info)
        if not any(problem.startswith("task.") for problem in problems):
            impossible += check_task(config, model_class(config.model.name), info)
        if info.num_val and config.data.val_fraction != DataConfig.model_fields["val_fraction"].default:
            brings = config.data.folder or config.data.name
            warnings.append(f"data.val_fraction cannot act: {brings} has a validation part of its own")
        return problems + impossible, warnings
    return problems, []


def check_parts(raw: Mapping[str, Any], settings: Settings) -> list[str]:
    """Returns further problems of a study whose keys and values give no config."""
    problems = check_names(raw)
    try:
        data = DataConfig.model_validate(raw.get("data"))
        if not is_import_path(data.name) and not any(p.startswith("data.") for p in problems):
            split_sizes(data, find_reader(data, settings.data).info)
    except ValidationError:
        pass  # reported by the check of keys and values
    except DataError as error:
        problems.append(str(error))
    return problems


def _check_data(config: StudyConfig, settings: Settings, *, family: bool) -> tuple[DatasetInfo | None, list[str]]:
    """Prepares the data, for a model if there is a ``family``; returns a description of them, and problems."""
    info = None
    try:
        found = find_reader(config.data, settings.data)
        info = found.info
        split_sizes(config.data, info)
        prepare_dataset(found, cache=settings.cache)
    except DataError as error:
        return info, [str(error)]
    if family:
        task = task_kind(config.task, model_class(config.model.name))
        if TASKS[task].targets not in (None, info.targets):
            needs, has = TASKS[task].targets, info.targets
            return info, [f"model.name: {config.model.name} is for {task}, on {needs}; {config.data.name} has {has}"]
    return info, []


def _check_sizes(config: StudyConfig, info: DatasetInfo) -> tuple[list[str], list[str]]:
    """Builds the models at the corners of the space, without memory for weights; returns problems and warnings."""
    size = config.space.get("training.batch_size", config.training.batch_size)
    sizes = size.choices if isinstance(size, Choices) else [size.low if isinstance(size, Range) else size]
    smallest = min(int(min(sizes)), config.data.train_size or 2)  # type: ignore[type-var, arg-type]
    problems: dict[str, list[str]] = {}  # error -> sizes
    shapes: dict[tuple[Any, Any], list[tuple[int, ...]]] = {}
    kinds: set[str] = set()
    left_out: dict[str, str] = {}
    unguidable: dict[str, str] = {}
    own = is_import_path(config.model.name)
    for number, corner in enumerate(itertools.islice(_corners(config), CORNERS)):
        trial = config.trial(corner)
        depth, width = trial.model["depth"], trial.model["width"]
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore", GuidanceWarning)  # reported below, once for all corners
                with_weights = number < CORNERS_WITH_WEIGHTS
                model = check_model(trial, info, with_weights=with_weights) if own else build(trial, info)
                if model is None:
                    continue
                guidance = EntropyGuidance(model, **trial.guidance.model_dump())
            if smallest < 2 and has_batch_norm(model):
                needed = "batch normalisation needs at least 2 images: training.batch_size, data.train_size"
                raise ValueError(needed)  # noqa: TRY301
        except ValueError as error:
            problems.setdefault(str(error), []).append(f"depth {depth}, width {width}")
            continue
        shapes[depth, width] = [tuple(p.shape) for p in model.parameters()]
        kinds |= {layer.kind for layer in guidance.selected}
        left_out |= {layer.name: layer.kind for layer in guidance.left_out}
        unguidable |= guidance.unguidable
    if problems:
        # Our own messages name the impossible size; messages of the user's code need not.
        more = {error: f" and {len(at) - 1} more" if len(at) > 1 else "" for error, at in problems.items()}
        where = {error: f"at {at[0]}{more[error]}: " if own else "" for error, at in problems.items()}
        return [f"model {config.model.name} on {config.data.name}: {where[e]}{e}" for e in problems], []
    return [], _unguided(config, kinds, left_out, unguidable) + _idle(config, shapes, kinds)


def _corners(config: StudyConfig) -> Iterator[dict[str, Scalar]]:
    """Returns every depth, with the ends of everything else that shapes the model."""
    levels: dict[str, list[Scalar]] = {}
    for name, dimension in config.searched.items():
        values: list[Scalar]
        if name not in ("depth", "width") and not name.startswith("model."):
            values = list(dimension.choices[:1]) if isinstance(dimension, Choices) else [dimension.low]
        elif isinstance(dimension, Choices):
            values = list(dimension.choices)
        elif name == "depth" and isinstance(dimension.low, int):
            values = list(range(dimension.low, int(dimension.high) + 1, int(dimension.step or 1)))
        else:
            values = [dimension.low, dimension.high]
        levels[name] = values
    if "depth" in levels:
        levels["depth"] = levels.pop("depth")  # varies fastest, so that every depth is among the first corners
    return (dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values()))


TERMS = (("lambda1", "dense", "form"), ("lambda2", "conv", "conv_form"))  # weight, kind of layer, form of each


def _unguided(
    config: StudyConfig, kinds: set[str], left_out: Mapping[str, str], unguidable: Mapping[str, str]
) -> list[str]:
    """Returns warnings about lambdas without a layer to act on, and about weights that guidance leaves out."""
    found, name = [], config.model.name
    for weight, kind, form in TERMS:
        lost = [layer for layer, its_kind in left_out.items() if its_kind == kind]
        lost = [*lost[:3], *(["..."] if len(lost) > 3 else [])]
        hint = f"name them under guidance.layers, or use guidance.{form}: target"
        if weight in config.searched and kind not in kinds:
            words = "dense layers" if kind == "dense" else "convolutions"
            none = f"{name} has no {words}"
            why = f"all {words} of {name} feed a normalisation layer ({', '.join(lost)}): {hint}"
            found.append(f"space.{weight} cannot act: {why if lost else none}")
        elif lost and _acts(config, weight):
            found.append(
                f"guidance.layers: all skips layers that feed a normalisation layer ({', '.join(lost)}): guidance "
                f"would grow their weights without bound. To guide them anyway, {hint}"
            )
    if unguidable and any(_acts(config, weight) for weight, *_ in TERMS):
        found.append(f"guidance leaves out trained weights of {name}: {by_reason(unguidable)}")
    return found


def _values(config: StudyConfig, name: str) -> list[Scalar]:
    dimension = config.space.get(name, getattr(config.guidance, name.removeprefix("guidance.")))
    return list(dimension.choices) if isinstance(dimension, Choices) else [dimension]


def _acts(config: StudyConfig, weight: str) -> bool:
    return weight in config.searched or any(value != 0 for value in _values(config, weight))


def _idle(config: StudyConfig, shapes: Mapping[tuple[Any, Any], object], kinds: set[str]) -> list[str]:
    searched, found = config.searched, []
    smoothed = config.training.label_smoothing or "training.label_smoothing" in config.space
    if smoothed and config.task.loss:
        found.append("training.label_smoothing cannot act: task.loss is your own")
    elif smoothed and TASKS[task_kind(config.task, model_class(config.model.name))].targets is None:
        found.append(f"training.label_smoothing cannot act: {config.model.name} is not trained on labels")
    terms = [form for weight, kind, form in TERMS if kind in kinds and _acts(config, weight)]
    forms = {str(value) for form in terms for value in _values(config, f"guidance.{form}")}
    for name, form in (("epsilon", "reciprocal"), ("guidance.target", "target")):
        if name in searched and form not in forms:
            only = f"only the {form} form has it, and the form is {' and '.join(sorted(forms))}"
            found.append(f"space.{name} cannot act: {only if forms else 'no guidance'}")
    if "width" in searched:
        depths = {d for d, _ in shapes}
        same = [d for d in sorted(depths) if len({str(s) for (at, _), s in shapes.items() if at == d}) == 1]
        if same:
            found.append(f"space.width cannot act at depth {', '.join(map(str, same))} of {config.model.name}")
    return found
