"""Renders a study file for a reader: each key with its meaning, and defaults as lines that are commented out.

Meanings, defaults and allowed values are those of the JSON Schema, and so of the config classes.
"""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COLUMN, WIDTH = 53, 120  # where meanings begin, and where lines end
Properties = Mapping[str, Mapping[str, Any]]  # JSON Schema, by key


def render(values: Mapping[str, Any], properties: Properties, optional: Mapping[str, Sequence[str]]) -> str:
    """Returns YAML with a comment for each key.

    Args:
        values: The keys that are set. A mapping becomes a block if its keys have a schema, else one line.
        properties: The schema of each key, without references.
        optional: Key path of a block -> the keys below it that are written as comments, with their defaults.

    Example:
        >>> seed = {"default": 0, "description": "Initial weights."}
        >>> training = {"description": "The training.", "properties": {"lr": {"description": "Rate."}, "seed": seed}}
        >>> print(render({"training": {"lr": 0.1}}, {"training": training}, {"training": ["seed"]}))
        <BLANKLINE>
        training:                                            # The training.
          lr: 0.1                                            # Rate.
          # seed: 0                                          # Initial weights.
        <BLANKLINE>
    """
    return "".join(f"{line}\n" for line in _block(values, properties, optional, path="", indent=""))


def schema_of_keys(schema: Mapping[str, Any]) -> Properties:
    """Returns the schema of each key of a mapping; empty if it has none, or the value is no mapping."""
    parts = [schema, *schema.get("anyOf", [])]
    found: Properties = next((part["properties"] for part in parts if "properties" in part), {})
    return found


def _block(
    values: Mapping[str, Any], properties: Properties, optional: Mapping[str, Sequence[str]], path: str, indent: str
) -> Iterator[str]:
    for key, value in values.items():
        schema, keys = properties[key], schema_of_keys(properties[key])
        yield from [] if indent else [""]
        if keys and isinstance(value, Mapping):
            inner = f"{path}{key}"
            yield from _commented(f"{indent}{key}:", schema)
            yield from _block(value, keys, optional, f"{inner}.", f"{indent}  ")
            for name in optional.get(inner, ()):
                yield from _commented(f"{indent}  # {_yaml(name, keys[name]['default'])}", keys[name])
        else:
            yield from _commented(f"{indent}{_yaml(key, value)}", schema)


def _yaml(key: str, value: object) -> str:
    """Returns a key and its value as one line; what the value holds is in braces."""
    from ruamel.yaml import YAML

    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = True, 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump({key: value}, text)
    return text.getvalue().strip().removeprefix("{").removesuffix("}")


def _commented(code: str, schema: Mapping[str, Any]) -> list[str]:
    """Returns a line of YAML with its meaning beside it, which goes on below."""
    parts = [schema, schema.get("items", {}), *schema.get("anyOf", [])]
    allowed = next((part["enum"] for part in parts if "enum" in part), None)
    meaning = " ".join(filter(None, [schema.get("description"), f"Allowed: {', '.join(allowed)}." if allowed else ""]))
    first, *more = textwrap.wrap(meaning, WIDTH - COLUMN - 2) or [""]
    return [f"{code:<{COLUMN - 2}}  # {first}".rstrip("# "), *(f"{'':{COLUMN}}# {each}" for each in more)]
