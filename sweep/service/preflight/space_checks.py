"""Checks a study for impossible sizes, unfit data and hyperparameters without effect."""

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from ...config.errors import DataError, reason
from ...config.search_space import Choices, Range, Scalar
from ...config.sections import DataConfig
from ...config.settings import Settings
from ...config.study_config import StudyConfig
from ...config.trial_config import TrialConfig
from ...config.user_code import import_object, is_import_path
from ...config.user_command import check_program, check_seed, unread
from ...data.datasets import DatasetInfo
from ...data.loading import find_reader, prepare_dataset, split_sizes, stored_part
from ...losses import EntropyGuidance, GuidanceWarning
from ...losses.task import TASKS
from ...losses.unguided import by_reason
from ...models import model_class
from ...study.constrained import check_constraints, violated
from ...training.function_calls import yields
from ...training.loop import has_batch_norm
from ...training.trial import build, task_kind
from .name_checks import check_names
from .user_code_checks import check_model, check_task

CORNERS_WITH_WEIGHTS = 4  # corners at which a model of the user's own is built with weights if it fails without
CORNERS, WEIGHTS = 512, 4_000  # models, and weights and biases of theirs, that are made at most to find what is wrong
DEPTHS = 16  # first depths of a range at which models are built; and at its last one
COPIES = {"sgd": 3, "adam": 4, "adamw": 4}  # of a network that its training keeps: weights, gradients, moments


def check_study(config: StudyConfig, settings: Settings) -> tuple[list[str], list[str]]:
    """Searches for what would make trials fail, before any starts; returns problems, and warnings."""
    problems = check_names(config.model_dump())
    problems += check_constraints(config) if config.constraints else []
    if any(key.startswith("search.") for key in config.import_paths) and not problems:
        from ...study.user_search import check_own

        problems += check_own(config)
    if config.command is not None:
        problems += check_program(config.command) if settings.address == "local" else []
        problems += check_seed(config.command) if max(config.search.seeds, config.search.design_seeds) > 1 else []
        return problems, unread(config.command, [*config.searched]) if not problems else []
    if config.function is not None:  # its space is known when it runs
        if not problems and config.resources.processes > 1 and not yields(import_object(config.function)):
            problems.append(
                f"resources: {config.function} does not yield its reports, so it trains in one process: leave workers "
                "out, and gpus at 1 at most"
            )
        return problems, []
    info, unfit, doubts = None, list[str](), list[str]()
    if not any(p.startswith("data.") for p in problems):
        family = not any(p.startswith(("model.name", "task.kind")) for p in problems)
        info, unfit, doubts = _check_data(config, settings, family=family)
    buildable = all(
        problem.startswith(("objective.", "constraints", "search.", "task.loss", "task.metrics"))
        for problem in problems
    )
    problems += unfit
    if buildable and info is not None:
        impossible, warnings = _check_sizes(config, info, settings)
        if not any(problem.startswith("task.") for problem in problems):
            impossible += check_task(config, model_class(config.model.name), info)
        if info.num_val and config.data.val_fraction != DataConfig.model_fields["val_fraction"].default:
            brings = config.data.folder or config.data.name
            warnings.append(f"data.val_fraction cannot act: {brings} has a validation part of its own")
        if info.num_val and config.data.val_seed == "trial":
            warnings.append("data.val_seed cannot act: the data set has a validation part of its own")
        return problems + impossible, doubts + warnings
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


def _check_data(
    config: StudyConfig, settings: Settings, *, family: bool
) -> tuple[DatasetInfo | None, list[str], list[str]]:
    """Prepares the data, for a model if there is a ``family``; returns their description, problems and warnings."""
    info = None
    try:
        found = find_reader(config.data, settings.data)
        info = found.info
        split_sizes(config.data, info)
        found.downloads = settings.scratch
        prepare_dataset(found, cache=settings.cache)
    except DataError as error:
        return info, [str(error)], []
    needs = TASKS[task_kind(config.task, model_class(config.model.name))].targets if family else None
    if needs is None:
        return info, [], []
    if unfit := check_targets(config, info):
        return info, unfit, []
    if info.num_classes < 2 or (
        needs == "labels" and len(np.unique(stored_part(found, settings.cache, "train")[1])) < 2
    ):
        name = f" ({info.classes[0]})" if info.classes else ""
        doubt = f"; {found.doubt}" if found.doubt else ""
        return info, [f"data: {config.data.name} has one class{name}, which leaves nothing to learn{doubt}"], []
    return info, [], [f"data: {found.doubt}"] if found.doubt else []


def check_targets(config: StudyConfig, info: DatasetInfo) -> list[str]:
    """Returns a problem if the data lacks the labels or masks that the model is trained on."""
    task = task_kind(config.task, model_class(config.model.name))
    if (needs := TASKS[task].targets) in (None, info.targets):
        return []
    return [f"model.name: {config.model.name} is for {task}, on {needs}; {config.data.name} has {info.targets}"]


def _check_sizes(config: StudyConfig, info: DatasetInfo, settings: Settings) -> tuple[list[str], list[str]]:
    """Builds the models at the corners of the space, without memory for weights; returns problems and warnings."""
    size = config.space.get("training.batch_size", config.training.batch_size)
    sizes = size.choices if isinstance(size, Choices) else [size.low if isinstance(size, Range) else size]
    smallest = min(int(min(sizes)), config.data.train_size or 2)  # type: ignore[type-var, arg-type]
    problems: dict[str, list[str]] = {}  # error -> sizes
    shapes: dict[tuple[Any, Any], list[tuple[int, ...]]] = {}
    kinds: set[str] = set()
    left_out: dict[str, str] = {}
    unguidable: dict[str, str] = {}
    own, built = is_import_path(config.model.name), 0
    for number, corner in enumerate(itertools.islice(_corners(config), CORNERS)):
        if built > WEIGHTS:
            break
        if violated(config, corner):
            continue
        trial = config.trial(corner)
        depth, width = trial.model["depth"], trial.model["width"]
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore", GuidanceWarning)  # reported below, once for all corners
                with_weights = number < CORNERS_WITH_WEIGHTS
                model = check_model(trial, info, with_weights=with_weights) if own else build(trial, info)
                if model is None:
                    continue
                _require_memory(model, trial, settings)
                guidance = EntropyGuidance(model, **trial.guidance.model_dump())
            if smallest < 2 and has_batch_norm(model):
                needed = "batch normalisation needs at least 2 images: training.batch_size, data.train_size"
                raise ValueError(needed)  # noqa: TRY301
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # torch's own, of a size beyond its own
            problems.setdefault(str(error) if own else reason(error), []).append(f"depth {depth}, width {width}")
            continue
        shapes[depth, width] = [tuple(p.shape) for p in model.parameters()]
        built += len(shapes[depth, width])
        kinds |= {layer.kind for layer in guidance.selected}
        left_out |= {layer.name: layer.kind for layer in guidance.left_out}
        unguidable |= guidance.unguidable
    if problems:
        # Our own messages name the impossible size; messages of the user's code need not.
        more = {error: f" and {len(at) - 1} more" if len(at) > 1 else "" for error, at in problems.items()}
        where = {
            error: f"at {at[0]}{more[error]}: " if own and not error.startswith(at[0]) else ""
            for error, at in problems.items()
        }
        return [f"model {config.model.name} on {config.data.name}: {where[e]}{e}" for e in problems], []
    return [], _unguided(config, kinds, left_out, unguidable) + _idle(config, shapes, kinds)


def _require_memory(model: nn.Module, trial: TrialConfig, settings: Settings) -> None:
    """Raises ValueError if training a model takes more than the memory of this machine, where it trains."""
    numbers = sum(p.numel() for p in model.parameters())
    needed = 4 * numbers * COPIES[trial.training.optimizer]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if settings.address == "local" and needed > memory:
        raise ValueError(
            f"depth {trial.model['depth']}, width {trial.model['width']}: {numbers:,} weights, gradients and the "
            f"optimizer's state take {needed / 1e9:,.0f} GB; this machine has {memory / 1e9:.0f} GB"
        )


def _corners(config: StudyConfig) -> Iterator[dict[str, Scalar]]:
    """Returns depths, the first and the last ones, with the ends of everything else that shapes the model."""
    levels: dict[str, list[Scalar]] = {}
    for name, dimension in config.searched.items():
        values: list[Scalar]
        if name not in ("depth", "width") and not name.startswith("model."):
            values = list(dimension.choices[:1]) if isinstance(dimension, Choices) else [dimension.low]
        elif isinstance(dimension, Choices):
            values = list(dimension.choices)
        elif name == "depth" and isinstance(dimension.low, int):
            every = range(dimension.low, int(dimension.high) + 1, int(dimension.step or 1))
            values = list(dict.fromkeys([*every[:DEPTHS], every[-1]]))
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
