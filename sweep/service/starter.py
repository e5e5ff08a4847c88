"""The study file of `sweep init`: it runs as it is, and shows the keys that a beginner may want."""

import contextlib
import inspect
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config.commented_study import render, schema_of_keys
from ..config.errors import ConfigError, DataError
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.study_file import json_schema, parse_study, resolved_properties
from ..config.user_code import ImportPathError, import_object, is_import_path, search_in
from ..config.user_command import OF_A_TRIAL, placeholders, source_of
from ..models import SHARED_OPTIONS, model_class, options
from .preflight.load import name_problems

HEAD = """\
# A study. How long it takes: sweep run {file} --dry-run. Run it: sweep run {file}
# A key that is commented out shows its default. Checks and meanings in an editor: sweep schema --write {file}
"""
OPTIONAL = {  # keys that are written as comments, with their defaults; and all options of the model
    "data": ("train_size", "val_fraction", "augment"),
    "objective": ("at", "target"),
    "training": ("optimizer", "lr_schedule", "weight_decay", "init", "precision", "seed"),
    "search": ("sampler", "pruner", "hours", "target"),
    "resources": ("gpus", "memory", "max_concurrent"),
}


def _log(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "log": True}


class Start(NamedTuple):
    """The part of a study that depends on its model: what is searched, and the meaning of its sizes."""

    depth: Mapping[str, Any]
    width: Mapping[str, Any]
    meanings: tuple[str, str] = ("Layers.", "Units of a layer.")
    lambdas: Mapping[str, Any] = {"lambda1": _log(1e-5, 1e-1), "lambda2": 0.0, "epsilon": _log(1e-3, 1.0)}
    guidance: str | Mapping[str, Any] = "default"


BOTH = {"lambda1": _log(1e-5, 1e-1), "lambda2": _log(1e-5, 1e-1), "epsilon": _log(1e-3, 1.0)}
# A norm follows nearly every convolution of a U-Net, whose only dense layer is the last.
NORMED = {"lambda1": 0.0, "lambda2": _log(1e-4, 1.0), "guidance.target": {"low": -6.0, "high": 0.0}}
UNITS, CHANNELS, EVEN = {"choices": [16, 32, 64]}, {"choices": [8, 16]}, {"low": 4, "high": 8, "step": 2}
STARTS = {
    "mlp": Start({"low": 1, "high": 4}, UNITS, ("Hidden layers.", "Units of each hidden layer.")),
    "autoencoder": Start(
        EVEN, {"choices": [32, 64]}, ("Weight layers, half of them encode.", "Units of the first hidden layer.")
    ),
    "cnn": Start({"low": 2, "high": 6}, CHANNELS, ("Convolutions.", "Channels of each."), BOTH),
    "conv_autoencoder": Start(EVEN, CHANNELS, ("Convolutions, half of them encode.", "Channels of each."), BOTH),
    "resnet": Start({"choices": [20, 32]}, CHANNELS, ("Layers, as the paper counts.", "Channels of the first stage.")),
    "unet": Start(
        {"low": 2, "high": 3}, CHANNELS, ("Poolings.", "Channels before the first."), NORMED, {"conv_form": "target"}
    ),
}
OWN = Start({"low": 1, "high": 3}, UNITS)  # of a model of the user's own


RANGES: dict[str, Mapping[str, Any]] = {  # of own code's hyperparameters, by common names
    **dict.fromkeys(("lambda1", "lambda2"), _log(1e-5, 1e-1)),
    "epsilon": _log(1e-3, 1.0),
    "lr": _log(1e-4, 1e-1),
    "depth": {"low": 1, "high": 4},
    "width": UNITS,
    "batch_size": {"choices": [32, 64, 128]},
    "weight_decay": _log(1e-6, 1e-2),
    "dropout": {"low": 0.0, "high": 0.5},
}
GUESS = {"low": 0.0, "high": 1.0}


def write_starter(
    name: str,
    settings: Settings,
    *,
    model: str | None = None,
    data: str | None = None,
    function: str | None = None,
    command: str | None = None,
) -> Path:
    """Writes a study file NAME.yaml into the current folder and returns its path.

    Args:
        name: The study's name; an ending .yaml is left out.
        model: A family of `models`, or ``package.module:Class``; default: mlp.
        data: A data set, ``package.module:load``, or a folder of images, below the data root or the current folder;
            default: digits.
        function: A training function of the user's own, in place of both.
        command: A script of the user's own, its words as a shell splits them, in place of both.

    Raises:
        ConfigError: all problems at once: a name that is taken or unfit, or a model and data that do not go together.
    """
    from .preflight.name_checks import check_names

    name = re.sub(r"\.ya?ml$", "", name)
    path = Path(f"{name}.yaml")
    search_in(Path.cwd())
    if command:
        raw = starter_of_command(name, command)
    elif function:
        raw = starter_of_function(name, function)
    else:
        raw = starter(name, model or "mlp", data or "digits", settings)
    config, problems = parse_study(raw)
    problems += name_problems(name, settings) + check_names(raw)
    own = {key for key, given in {"function": function, "command": command}.items() if given}
    if own and sum(map(bool, (model or data, function, command))) > 1:
        problems.append(
            f"--{' and --'.join(sorted(own))}: one of them takes the place of --model and --data, leave them out"
        )
    if config is not None and not problems:
        problems += _unfit(config, settings)
    if path.exists():
        problems.append(f"{path} exists: remove it, or choose another name")
    if problems:
        advice = "--data takes a folder, too: one with a folder for each class, or with VOCdevkit (images and masks)"
        of_data = not own and any("data" in problem or "masks" in problem for problem in problems)
        raise ConfigError(f"init {name}", problems, advice if of_data else "")
    shown = OPTIONAL | ({"training": ("seed",)} if own else {"model": tuple(_model_options(raw["model"]["name"]))})
    with path.open("x") as file:  # raises if it was made meanwhile
        file.write(HEAD.format(file=path) + render(raw, _properties(raw), shown))
    return path


def starter_of_function(name: str, function: str) -> dict[str, Any]:
    """Returns the keys and values of a study of a training function, as far as its source shows them."""
    source, trial = "", "trial"
    with contextlib.suppress(ImportPathError, OSError, TypeError, ValueError, StopIteration):  # `check_names` tells
        found = import_object(function)
        trial, source = next(iter(inspect.signature(found).parameters)), inspect.getsource(found)
    names = dict.fromkeys(re.findall(rf"\b{trial}\[[\"'](\w+)[\"']\]", source)) or ["lr"]
    metric = next(iter(re.findall(r"(?:yield \{|\.report\()\s*[\"']?(\w+)", source)), "val_loss")
    guided = ["lambda1"] if ".guidance(" in source or ".SweepCallback(" in source else []
    return _of_own_code(name, {"function": function}, metric, [*guided, *names])


def starter_of_command(name: str, command: str) -> dict[str, Any]:
    """Returns the keys and values of a study of a script, as far as its command and its source show them."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"init {name}", [f"--command {command}: {error}; its words are those of a shell"]) from None
    source = source_of(words).decode(errors="replace") if words else ""
    metric = next(iter(re.findall(r"[\"']((?:val|valid|validation)_\w+)\\?[\"']", source)), "val_loss")
    names = [each for each in placeholders(words) if each not in OF_A_TRIAL]
    return _of_own_code(name, {"command": words}, metric, names or ["lr"])


def _of_own_code(name: str, own: Mapping[str, Any], metric: str, names: Iterable[str]) -> dict[str, Any]:
    more = re.search(r"acc|f1|auc|iou|psnr|r2|reward|score", metric)
    return {
        "name": name,
        **own,
        "objective": {"metric": metric, "direction": "maximize" if more else "minimize"},
        "space": {each: RANGES.get(each, GUESS) for each in names},
        "training": {"max_epochs": 20},
        "search": {"trials": 24, "design": 8, "finalists": {"top": 1, "seeds": 3}},
        "resources": {"cpus": 1},
    }


def starter(name: str, model: str, data: str, settings: Settings) -> dict[str, Any]:
    """Returns the keys and values of a study of minutes; they are not checked."""
    start = STARTS.get(model, OWN)
    return {
        "name": name,
        "model": {"name": model},
        "data": _data(data, settings),
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": {**start.lambdas, "depth": start.depth, "width": start.width, "training.lr": _log(1e-3, 1e-2)},
        "guidance": start.guidance,
        "training": {"max_epochs": 20 if data == "digits" else 10, "batch_size": 32},
        "search": {"trials": 24, "design": 8, "finalists": {"top": 1, "seeds": 3, "tuned": 8}},
        "resources": {"cpus": 1},
    }


def _data(data: str, settings: Settings) -> dict[str, Any]:
    """Returns the section of a named data set, or of a folder: of class folders, or of VOC's layout."""
    from ..data.loading import DATASETS

    found = [folder for folder in (settings.data / data, Path(data)) if folder.is_dir()]
    if data in DATASETS or is_import_path(data) or not found:
        return {"name": data}
    known = data if found[0] == settings.data / data else str(found[0].absolute())
    if years := [each.name.removeprefix("VOC") for each in found[0].glob("VOCdevkit/VOC*")]:
        return {"name": "voc", "folder": known, "year": int(max(years)), "image_size": 128, "num_classes": 21}
    return {"name": "imagefolder", "folder": known, "image_size": 64}


def _unfit(config: StudyConfig, settings: Settings) -> list[str]:
    """Returns why the model cannot be trained on the data, as far as that is known before the data are read."""
    from ..data.loading import find_reader
    from .preflight.space_checks import check_targets

    if config.kind != "model" or is_import_path(config.data.name):
        return []
    try:
        return check_targets(config, find_reader(config.data, settings.data).info)
    except DataError as error:
        return [str(error)]


def _properties(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema of each key, with those of the model's options and of the names in the space."""
    model = raw.get("model", {}).get("name")
    properties = resolved_properties(json_schema())
    of_model, guidance, training = (schema_of_keys(properties[each]) for each in ("model", "guidance", "training"))
    depth, width = STARTS.get(model, OWN).meanings
    space = {**guidance, "depth": {"description": depth}, "width": {"description": width}}
    space |= {f"guidance.{name}": field for name, field in guidance.items()}
    space |= {f"training.{name}": field for name, field in training.items()}
    if model is None:
        own = {"description": "Your code's: check the range, which is a guess."}
        return {
            **properties,
            "space": {**properties["space"], "properties": {**dict.fromkeys(raw["space"], own), **guidance}},
        }
    return {
        **properties,
        "model": {**properties["model"], "properties": {**of_model, **_model_options(model)}},
        "space": {**properties["space"], "properties": space},
    }


def _model_options(model: str) -> dict[str, dict[str, Any]]:
    """Returns the default and the meaning of each option of a model, from its signature and its docstring."""
    documented = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", inspect.getdoc(model_class(model)) or "", re.MULTILINE)
    meanings = SHARED_OPTIONS | {name: " ".join(text.split()) for name, text in documented}
    return {
        name: {"default": parameter.default, "description": meanings.get(name, "")}
        for name, parameter in options(model).items()
        if isinstance(parameter.default, bool | int | float | str | None)
    }
