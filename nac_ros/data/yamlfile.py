"""YAML that nobody vouches for: of limited size, without aliases, every failure a sentence.

A few lines of aliases stand for gigabytes, and a number of a thousand parts takes hours; what a
recorder writes has neither.
"""

from pathlib import Path
from typing import Any

import yaml

from nac_ros.errors import DatasetError
from nac_ros.jsonfile import read_bytes, shorten

MAX_BYTES = 512 << 10
MAX_NUMBER = 64  # characters of a number or a date


def read_mapping(path: Path, fix: str) -> dict[str, Any]:
    """The mapping in a YAML file; raises DatasetError with what is wrong and `fix`."""
    try:
        content = read_bytes(path, DatasetError, MAX_BYTES).decode("utf-8")
    except (DatasetError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is missing or broken: {shorten(error)}; {fix}") from error
    return parse_mapping(content, str(path), fix)


def parse_mapping(text: str, where: str, fix: str) -> dict[str, Any]:
    """The mapping in a YAML text; raises DatasetError with `where`, what is wrong, and `fix`."""
    if len(text) > MAX_BYTES:
        raise DatasetError(f"{where} has {len(text)} characters, more than {MAX_BYTES}; {fix}")
    try:
        content = yaml.load(text, _PlainLoader)
    except RecursionError as error:
        raise DatasetError(f"{where} is nested too deeply; {fix}") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise DatasetError(f"{where} is broken: {shorten(said)}; {fix}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DatasetError(f"{where} holds a {kind}, wanted a mapping; {fix}")
    return content


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, and numbers too long to be any."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias, which no recorder writes")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        short = node.tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:binary")
        if isinstance(node, yaml.ScalarNode) and not short and len(node.value) > MAX_NUMBER:
            raise yaml.YAMLError(f"it holds a number of {len(node.value)} characters")
        return super().construct_object(node, deep=deep)
