"""Reads YAML 1.2 into null, booleans, numbers, texts, lists and mappings; no text takes it long or much memory."""

import warnings
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from .errors import UNPRINTABLE, ConfigError

# Far above any study file. The values of an alias count each time that it is used.
MOST_CHARACTERS, MOST_VALUES, MOST_NESTED = 65_536, 10_000, 32
TAG = "tag:yaml.org,2002:"
SCALARS = {"null": "null", "bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
TEXTS = {f"{TAG}{name}" for name in ("str", "timestamp", "value")}  # a date is the text that was written


class UnfitError(MarkedYAMLError):
    """Valid YAML, but no plain data within the bounds."""

    def __init__(self, problem: str, node: Node):
        super().__init__(problem=problem, problem_mark=node.start_mark)


class PlainConstructor(SafeConstructor):
    """Constructs plain data alone."""

    yaml_constructors = {  # noqa: RUF012
        **{f"{TAG}{t}": SafeConstructor.yaml_constructors[f"{TAG}{t}"] for t in (*SCALARS, "seq", "map")},
        **dict.fromkeys(TEXTS, SafeConstructor.construct_yaml_str),
        None: SafeConstructor.construct_undefined,
    }

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Returns the value of a node; raises UnfitError if it has none, a number too large or a control character."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError):
            raise UnfitError(f"{node.value!r} is not {SCALARS[str(node.tag).removeprefix(TAG)]}", node) from None
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UnfitError("a whole number has at most 64 bits", node)
        if isinstance(value, str) and (found := UNPRINTABLE.search(value)):
            raise UnfitError(f"a text must not have the character {found[0]!r}", node)
        return value


def load(text: str, source: str) -> Any:
    """Returns the value of a YAML document; raises ConfigError with the line of what is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(source, [f"{len(text):,} characters; at most {MOST_CHARACTERS:,} are read"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", YAMLWarning)
            return _construct(text)
    except MaxDepthExceededError as error:
        problem, mark = f"more than {MOST_NESTED} levels", error.problem_mark
    except MarkedYAMLError as error:
        problem, mark = error.problem or error.context, error.problem_mark or error.context_mark
        problem = problem if isinstance(error, UnfitError) else f"not valid YAML: {problem}"
    except YAMLError as error:
        problem, mark = str(error), None
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    raise ConfigError(source, [f"{where}{problem}"])


def _construct(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor, yaml.max_depth = PlainConstructor, MOST_NESTED
    root = yaml.compose(text)
    nodes = [(root, 1)] if root else []
    for _ in range(MOST_VALUES):
        if not nodes:
            return yaml.constructor.construct_document(root) if root else None
        node, depth = nodes.pop()
        if depth > MOST_NESTED:
            raise UnfitError(f"more than {MOST_NESTED} levels", node)
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if not isinstance(key, ScalarNode) or str(key.tag) not in {*TEXTS, f"{TAG}merge"}:
                    raise UnfitError("a key must be a text", key)
                nodes += [(key, depth), (value, depth + 1)]
        elif isinstance(node, CollectionNode):
            nodes += [(each, depth + 1) for each in node.value]
    raise YAMLError(f"more than {MOST_VALUES:,} values, aliases unfolded")
