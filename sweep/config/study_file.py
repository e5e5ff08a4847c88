"""Reads and writes study files: YAML 1.2, then the command line's overrides, then validation of everything at once."""

import copy
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..losses.options import PAPER
from .errors import ConfigError, SweepError, sentences
from .search_space import ALIASES
from .study_config import StudyConfig


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """Reads YAML 1.2; raises ConfigError if the text has a syntax error (with its line), or is not a mapping."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, [f"{where}not valid YAML: {error.problem or error.context}"]) from None
    except YAMLError as error:
        raise ConfigError(source, [f"not valid YAML: {error}"]) from None
    if not isinstance(raw, dict):
        raise ConfigError(source, ["a study file is a mapping: name, model, data, objective, space, ..."])
    return raw


def read_file(path: Path, source: str) -> dict[str, Any]:
    """Reads a study file; raises SweepError if it cannot be read or is not UTF-8, ConfigError as `read_yaml`."""
    try:
        return read_yaml(path.read_bytes().decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        data, at = error.object, error.start
        line = data[:at].count(b"\n") + 1
        raise SweepError(f"{source}: line {line} is not UTF-8 (byte {data[at]:#04x}); save it as UTF-8") from None
    except OSError as error:
        raise SweepError(f"{source}: cannot be read ({error.strerror})") from None


def override(raw: dict[str, Any], assignments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Applies ``--set`` options, of a path or hyperparameter; returns the study and a sentence for each that fails."""
    raw = copy.deepcopy(raw)
    values, problems = assigned(assignments)
    for key, value in values:
        space, model = raw.setdefault("space", {}), raw.get("model")
        if key in ("depth", "width") and isinstance(model, dict) and model.get(key) is not None:
            model[key] = value
        elif isinstance(space, dict) and (key in ALIASES or key in space):
            space[key] = value
        elif not _assign(raw, _path(key), value):
            problems.append(f"--set {key}: there is no such place in the study file")
    return raw, problems


def assigned(assignments: list[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Returns the keys and values of ``--set key=value`` options, in order, and a sentence for each malformed one."""
    values, problems = [], []
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            problems.append(f"--set {assignment}: must be key=value, as in --set training.lr=0.01")
            continue
        try:
            values.append((key, read_yaml(f"value: {text}", f"--set {key}")["value"]))
        except ConfigError as error:
            problems += [f"--set {key}: {problem}" for problem in error.problems]
    return values, problems


def extend(raw: dict[str, Any], trials: int | None, design: int) -> None:
    """Sets the number of trials, and adds design trials to it."""
    search = raw.setdefault("search", {})
    if isinstance(search, dict):
        if trials is not None:
            search["trials"] = trials
        if design:
            search["design"] = search.get("design", 0) + design
            search["trials"] = search.get("trials", 50) + design


def _path(key: str) -> list[str]:
    """Splits a key path; below ``space``, names of hyperparameters contain dots themselves."""
    if not key.startswith("space."):
        return key.split(".")
    name, _, end = key.removeprefix("space.").rpartition(".")
    return ["space", name, end] if end in ("low", "high", "log", "step", "choices") else ["space", key[6:]]


def _assign(tree: Any, path: list[str], value: object) -> bool:
    *parents, last = path
    for part in parents:
        if not isinstance(tree, dict):
            return False
        if part == "guidance" and isinstance(tree.get(part), str):
            tree[part] = dict(PAPER) if tree[part] == "paper" else {}
        tree = tree.setdefault(part, {})
    if not isinstance(tree, dict):
        return False
    tree[last] = value
    return True


def parse_study(raw: Mapping[str, Any]) -> tuple[StudyConfig | None, list[str]]:
    """Validates a study; returns the config, or None and a sentence for each problem.

    Example:
        >>> config, problems = parse_study({"name": "mine", "model": {"name": "mlp"}, "data": {"nam": "digits"}})
        >>> config, problems[:2]  # doctest: +ELLIPSIS
        (None, ['data.name: required', 'data.nam: unknown key (did you mean name?); allowed: name, folder, ...'])
    """
    try:
        return StudyConfig.model_validate(raw), []
    except ValidationError as error:
        return None, sentences(error, StudyConfig)


def to_yaml(config: StudyConfig) -> str:
    """Returns a study file with this config."""
    from ruamel.yaml import YAML

    raw = config.model_dump(mode="json", exclude_defaults=True)
    raw["space"] = {  # without the defaults log: false and step: null
        name: {k: v for k, v in dim.items() if v or k in ("low", "high")} if isinstance(dim, dict) else dim
        for name, dim in config.model_dump(mode="json")["space"].items()
    }
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = None, False  # type: ignore[assignment]
    yaml.dump(raw, text)
    return text.getvalue()


_BUILTIN = Path(__file__).parents[1] / "builtin"


def built_in(name: str) -> Path | None:
    """Returns the built-in study file of this name, or None."""
    path = _BUILTIN / f"{name}.yaml"
    return path if re.fullmatch(r"[\w.-]+", name) and path.is_file() else None


def built_in_names() -> list[str]:
    """Returns the names of the built-in study files."""
    return sorted(p.stem for p in _BUILTIN.glob("*.yaml"))


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of study files."""
    schema = StudyConfig.model_json_schema()
    schema["properties"]["guidance"] = {
        "anyOf": [{"enum": ["default", "paper"]}, {"$ref": "#/$defs/GuidanceConfig"}],
        "default": "default",
        "description": StudyConfig.model_fields["guidance"].description,
    }
    return schema
