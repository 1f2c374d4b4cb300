"""The only reader of YAML in the package: plain values, limited in size, with line numbers.

A file that is too large, too deep, or too long after its aliases are expanded is rejected before
its values are built. Tags that would construct Python objects are rejected.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from nac_ros.core.errors import ConfigError, show_text, show_value

MAX_BYTES = 1 << 20  # of a file
MAX_NODES = 20_000  # keys, values and lists after aliases are expanded; a robot file has 700
MAX_DEPTH = 20  # of nesting; a robot file has 5
_INTEGER, _REAL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class YamlMapping(dict[Any, Any]):
    """The mapping in a YAML document, with the line numbers of its fields."""

    def __init__(self, content: dict[Any, Any], root: yaml.Node):
        super().__init__(content)
        self._root = root

    def line_of(self, path: Iterable[Any]) -> int:
        """Line, counted from 1, of the value at a path of keys and indices; if there is none, the
        line of the last value on the path that exists."""
        node, line = self._root, self._root.start_mark.line
        for key in path:
            found = _child(node, key)
            if found is None:
                break
            node, line = found
        return line + 1


def load_yaml(path: Path) -> YamlMapping:
    """The mapping in a YAML file; raises ConfigError if the file is missing, exceeds a limit of
    this module, or does not hold a mapping."""
    shown = show_text(str(path), 300)
    try:
        if not Path(path).is_file():
            raise ConfigError(f"no configuration file at {shown}")
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        return parse_mapping(content.decode("utf-8"), shown)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown} is no text in UTF-8 ({error.reason}); save it as such") from (
            error
        )
    except OSError as error:
        raise ConfigError(
            f"{shown} cannot be read: {error.strerror}; check path and permissions"
        ) from error


def parse_mapping(text: str, where: str) -> YamlMapping:
    """The mapping in a YAML text; `where` names the text in errors. Raises ConfigError."""
    content, root = _parse(text, where)
    if not isinstance(content, dict) or root is None:
        kind = type(content).__name__
        raise ConfigError(f"{where} holds a {kind}; wanted a mapping of keys to values")
    return YamlMapping(content, root)


def parse_value(text: str, where: str) -> Any:
    """The value of a YAML text, of any plain type. Raises ConfigError."""
    return _parse(text, where)[0]


def _parse(text: str, where: str) -> tuple[Any, yaml.Node | None]:
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where} is longer than {MAX_BYTES >> 10} KiB; shorten it")
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            return (None if root is None else loader.construct_document(root)), root
        finally:
            loader.dispose()
    except _Limit as error:
        raise ConfigError(f"{where} {error}, line {error.line}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {_problem(error, text)}") from error


class _Limit(Exception):
    """A document exceeds a limit of this module at `mark`."""

    def __init__(self, problem: str, mark: Any):
        super().__init__(problem)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """Composes nodes within the limits and rejects duplicate keys in a mapping.

    `010` and `1:30` are text: YAML 1.1 would read them as the numbers 8 and 90.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._nodes, self._depth = 0, 0
        # id of a composed node -> number of nodes in it after its aliases are expanded
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _Limit("contains an alias inside its own anchor; write the values out", mark)
            self._count(self._sizes[id(node)], mark)
            return node
        before = self._nodes
        self._count(1, mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            text = f"is nested too deeply; wanted a mapping of at most {MAX_DEPTH} levels"
            raise _Limit(text, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._nodes - before
        return node

    def _count(self, nodes: int, mark: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            text = f"has more than {MAX_NODES} values after its aliases are expanded; shorten it"
            raise _Limit(text, mark)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key '{show_text(key.value)}' occurs twice",
                        problem_mark=key.start_mark,
                    )
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            kind = str(node.tag).rpartition(":")[2]  # such as 2001-99-99, or 5000 digits
            raise yaml.MarkedYAMLError(
                problem=f"{show_value(node.value)} cannot be read as {show_text(kind, 20)}",
                problem_mark=node.start_mark,
            ) from error


def _without_numbers() -> dict[Any, Any]:
    """PyYAML's rules for the type of a plain scalar, without those for numbers."""
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    return {
        first: [(tag, rule) for tag, rule in rules if tag not in (_INTEGER, _REAL)]
        for first, rules in resolvers.items()
    }


_Loader.yaml_implicit_resolvers = _without_numbers()
_Loader.add_implicit_resolver(
    _INTEGER,
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _REAL,
    re.compile(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _child(node: yaml.Node, key: Any) -> tuple[yaml.Node, int] | None:
    """The child of a node at `key`, and its line, counted from 0."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == str(key):
                return value, name.start_mark.line
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key].start_mark.line
    return None


def _problem(error: yaml.YAMLError, text: str) -> str:
    """The fault and its position, in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"the character U+{ord(text[error.position]):04X} is not allowed, line {line}"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return show_text(" ".join(str(error).split()), 200)
    return f"{show_text(problem, 200)}, line {mark.line + 1}, column {mark.column + 1}"
