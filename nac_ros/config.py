"""One dataclass per configuration; YAML and the command line hold only what differs from it."""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nac_ros.errors import ConfigError

C = TypeVar("C")
BOUNDS = "bounds"  # of a field's metadata


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError when it is missing or not a mapping."""
    if not Path(path).is_file():
        raise ConfigError(f"no configuration file at {path}")
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_told(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 ({error}); save it as such") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply; wanted a mapping of a few levels"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; allow it") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(f"{path} holds a {kind}; wanted a mapping of keys to values")
    return content


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """A frozen dataclass from plain values; nested dataclasses, tuples and dicts are built too.

    An unknown key raises ConfigError with the nearest known one; `where` names the source.
    """
    place = where or cls.__name__
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place}: wanted a mapping, got {type(values).__name__} {values!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(_unknown_key(key, known, place))
    if missing := _required(cls) - set(values):
        raise ConfigError(f"{place}: key '{min(missing)}' is missing; it has no default")
    built = {key: _coerce(hints[key], value, f"{place}.{key}") for key, value in values.items()}
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from error


def bounded(default: Any, low: float, high: float = math.inf) -> Any:
    """A field with values from `low` to `high`; `check_bounds` in __post_init__ refuses others."""
    return dataclasses.field(default=default, metadata={BOUNDS: (low, high)})


def check_bounds(values: Any) -> None:
    """Raises ConfigError for the first `bounded` field of a configuration that is outside."""
    for field in dataclasses.fields(values):
        if BOUNDS not in field.metadata:
            continue
        (low, high), value = field.metadata[BOUNDS], getattr(values, field.name)
        if not low <= value <= high:
            limits = f"at least {low:g}" if high == math.inf else f"in {low:g} .. {high:g}"
            raise ConfigError(
                f"{type(values).__name__}: {field.name} must be {limits}, got {value}"
            )


def to_plain(value: Any) -> Any:
    """The inverse of `build`: only dicts, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: to_plain(getattr(value, f.name)) for f in fields if f.init}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping holds twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"key '{key.value}' is there twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def _told(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}"


def _required(cls: Any) -> set[str]:
    unset = dataclasses.MISSING
    return {
        f.name
        for f in dataclasses.fields(cls)
        if f.init and f.default is unset and f.default_factory is unset
    }


def _unknown_key(key: str, known: set[str], place: str) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"
    return f"{place}: unknown key '{key}'; {hint}"


def _coerce(hint: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, place)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, place)
    if origin is tuple:
        return _coerce_tuple(args, value, place)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: wanted a mapping, got {value!r}")
        if args[0] is str and (odd := [key for key in value if not isinstance(key, str)]):
            raise ConfigError(f"{place}: key {odd[0]!r} is no text; put it in quotes")
        return {key: _coerce(args[1], item, f"{place}.{key}") for key, item in value.items()}
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{place}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    return _coerce_scalar(hint, value, place)


def _coerce_tuple(args: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{place}: wanted a list, got {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_coerce(args[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{place}: wanted {len(args)} values, got {len(value)}: {value!r}")
    return tuple(_coerce(a, v, f"{place}[{i}]") for i, (a, v) in enumerate(zip(args, value)))


_EXPONENT = re.compile(r"[+-]?\d+[eE][+-]?\d+")


def _coerce_scalar(hint: Any, value: Any, place: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)  # YAML reads 1e-3, without a point, as text
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ConfigError(f"{place}: wanted {hint.__name__}, got {value!r}")
    return value
