"""Reads and writes study files: YAML 1.2, then the command line's overrides, then validation of everything at once."""

import copy
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..losses.options import PAPER
from .errors import ConfigError, SweepError, nearest, sentences
from .filesystem import write_atomically
from .resources import Resources
from .search_space import ALIASES, Choices, Range
from .section import STORED, Section
from .sections import SearchConfig
from .study_config import StudyConfig

MOST_BYTES = 262_144


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """Reads YAML 1.2; raises ConfigError if it is not valid (with its line), no plain data, or not a mapping."""
    from .plain_yaml import load

    raw = load(text, source)
    if not isinstance(raw, dict):
        raise ConfigError(source, ["a study file is a mapping: name, model, data, objective, space, ..."])
    return raw


def read_file(path: Path, source: str) -> dict[str, Any]:
    """Reads a study file; raises SweepError if it cannot be read or is not UTF-8, ConfigError as `read_yaml`."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise SweepError(f"{source}: {size:,} bytes; a study file has at most {MOST_BYTES:,}")
        return read_yaml(path.read_bytes().decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        data, at = error.object, error.start
        line = data[:at].count(b"\n") + 1
        raise SweepError(f"{source}: line {line} is not UTF-8 (byte {data[at]:#04x}); save it as UTF-8") from None
    except OSError as error:
        raise SweepError(f"{source}: cannot be read ({error.strerror})") from None


def override(raw: dict[str, Any], assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
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


def assigned(assignments: Sequence[str]) -> tuple[list[tuple[str, Any]], list[str]]:
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


def extend(raw: dict[str, Any], trials: int | None, design: int) -> list[str]:
    """Sets the number of trials, and adds design trials to it; returns a sentence if fewer trials shrink the design."""
    search, notes = raw.setdefault("search", {}), list[str]()
    if isinstance(search, dict):
        if trials is not None:
            before, uniform = search.get("trials", 50), search.get("design", 0)
            if isinstance(before, int) and isinstance(uniform, int) and trials < uniform <= before:
                search["design"] = trials * uniform // before
                notes.append(f"search.design: {search['design']} of {trials} trials, as {uniform} of {before} before")
            search["trials"] = trials
        present = {key: search.get(key, SearchConfig.model_fields[key].default) for key in ("trials", "design")}
        if design and all(type(number) is int for number in present.values()):  # else the validation refuses them
            search |= {key: number + design for key, number in present.items()}
    return notes


def _path(key: str) -> list[str]:
    """Splits a key path; below ``space``, names of hyperparameters contain dots themselves."""
    if not key.startswith("space."):
        return key.split(".")
    name, _, end = key.removeprefix("space.").rpartition(".")
    return ["space", name, end] if end in {**Range.model_fields, **Choices.model_fields} else ["space", key[6:]]


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


def parse_study(
    raw: Mapping[str, Any], stored: Mapping[str, Any] | None = None
) -> tuple[StudyConfig | None, list[str]]:
    """Validates a study; returns the config, or None and a sentence for each problem.

    Bounds of numbers hold for all of a new study, and for what differs from a ``stored`` one in search and resources.

    Example:
        >>> config, problems = parse_study({"name": "mine", "model": {"name": "mlp"}, "data": {"nam": "digits"}})
        >>> config, problems[:2]  # doctest: +ELLIPSIS
        (None, ['data.name: required', 'data.nam: unknown key (did you mean name?); allowed: name, folder, ...'])
    """
    try:
        config = StudyConfig.model_validate(raw, context=STORED if stored else None)
    except ValidationError as error:
        return None, sentences(error, StudyConfig)
    problems = [
        problem
        for name, section in (("search", SearchConfig), ("resources", Resources))
        for key, value in raw.get(name, {}).items()
        if stored and value != stored[name].get(key)
        for problem in _out_of_bounds(section, name, raw[name])
        if problem.startswith(f"{name}.{key}")
    ]
    return (None, problems) if problems else (config, [])


def _out_of_bounds(section: type[Section], name: str, raw: Mapping[str, Any]) -> list[str]:
    try:
        section.model_validate(raw)
    except ValidationError as error:
        return sentences(error, section, name)
    return []


def to_yaml(config: StudyConfig) -> str:
    """Returns a study file with this config."""
    from ruamel.yaml import YAML

    raw = config.model_dump(mode="json", exclude_defaults=True)
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = None, False  # type: ignore[assignment]
    yaml.dump(raw, text)
    return text.getvalue()


_BUILTIN = Path(__file__).parents[1] / "builtin"


def built_in(name: str) -> Path | None:
    """Returns the built-in study file of this name, or None."""
    path = _BUILTIN / f"{name}.yaml"
    return path if re.fullmatch(r"[\w.-]+", name) and path.is_file() else None


def missing_file(path: Path) -> SweepError:
    """Returns the error about a study file that does not exist: names one like it, and the command that writes one."""
    beside = sorted(each.stem for each in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
    near = nearest(path.stem, beside).replace("?", f"{path.suffix}?") or f". Write it: sweep init {path.stem}"
    return SweepError(f"{path}: no such file{near}. Built-in studies: {', '.join(built_in_names())}")


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
    schema["oneOf"] = [{"required": ["model", "data"]}, {"required": ["function"]}, {"required": ["command"]}]
    return schema


def attach_schema(path: Path) -> Path:
    """Writes the JSON Schema beside a study file, and the line that leads editors to it on top of the file.

    Returns the schema's path; raises SweepError if the study file cannot be read.
    """
    read_file(path, str(path))
    schema = path.with_name("study.schema.json")
    with write_atomically(schema) as beside:
        beside.write_text(json.dumps(json_schema(), indent=2) + "\n")
    text = path.read_bytes().decode("utf-8-sig")
    line = f"# yaml-language-server: $schema={schema.name}"
    if line not in text.splitlines():
        with write_atomically(path) as beside:
            beside.write_bytes(f"{line}\n{text}".encode())
    return schema


def resolved_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the ``properties`` of a JSON Schema, each reference to another part replaced by that part."""

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(each) for each in part]
        if not isinstance(part, dict):
            return part
        target = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else {}
        return {key: resolved(value) for key, value in {**target, **part}.items() if key != "$ref"}

    properties: dict[str, Any] = resolved(schema["properties"])
    return properties
