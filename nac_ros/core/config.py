"""One dataclass per configuration; YAML and the command line hold only what differs from it."""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nac_ros.core.errors import (
    ConfigError,
    FieldError,
    NacError,
    show_text,
    show_value,
)
from nac_ros.core.yaml_reader import YamlMapping
from nac_ros.core.yaml_reader import load_yaml as load_yaml
from nac_ros.core.yaml_reader import parse_mapping as parse_mapping

C = TypeVar("C")
KeyPath = tuple[Any, ...]  # of keys and indices
BOUNDS, UNIT, TEXT, COUNT = "bounds", "unit", "text", "count"  # of a field's metadata
MAX_MESSAGE = 1200  # characters
REQUIRED: Any = dataclasses.MISSING  # as the default of a field that has none


class TextRule(NamedTuple):
    """What a text has to match as a whole, and that in words."""

    pattern: re.Pattern[str]
    text: str


NAME = TextRule(
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"),
    "1 to 64 letters, digits, '_', '-' or '.', the first a letter, a digit or '_'",
)
ROS_NAME = TextRule(
    re.compile(r"[A-Za-z0-9_]{1,64}"), "1 to 64 letters, digits or '_', as in a ROS name"
)
JOINT_NAME = TextRule(
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,63}"),
    "1 to 64 letters, digits, '_', '-', '.' or '/', the first a letter, a digit or '_'",
)
TOPIC = TextRule(
    re.compile(r"(?=.{1,200}$)[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"),
    "a relative ROS topic of at most 200 characters: letters, digits and '_' between single '/', "
    "no part beginning with a digit",
)
# All but control characters, line separators, marks that turn the writing round, surrogates.
_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
LABEL = TextRule(re.compile(rf"(?=.*\S){_PRINTABLE}{{1,64}}"), "1 to 64 printable characters")
SENTENCE = TextRule(
    re.compile(rf"(?=.*\S){_PRINTABLE}{{1,1000}}"), "1 to 1000 printable characters, in one line"
)
FILE = TextRule(re.compile(rf"{_PRINTABLE}{{0,4000}}"), "a path of printable characters")
OPTION = TextRule(re.compile(rf"{_PRINTABLE}{{0,256}}"), "at most 256 printable characters")


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """A frozen dataclass from plain values; nested dataclasses, tuples and dicts are built too.

    An unknown key raises ConfigError with the nearest known one, and so does a number that is not
    finite. `where` names the source; of values from a YAML file the line is named as well. A class
    with a method `check_plausible` is asked for more than its constructor refuses.
    """
    place = where or cls.__name__
    try:
        return _build(cls, values, ())
    except FieldError as error:
        raise ConfigError(show_text(_located(error, values, place), MAX_MESSAGE)) from error


def bounded(default: Any, low: float, high: float = math.inf, unit: str = "") -> Any:
    """A field of finite numbers from `low` to `high`, each element of a tuple or a dict too;
    `check_bounds` in __post_init__ refuses others. default: REQUIRED for none; unit: for errors
    """
    return dataclasses.field(default=default, metadata={BOUNDS: (low, high), UNIT: unit})


def named(default: Any, rule: TextRule, low: int = 0, high: int = 64) -> Any:
    """A field of text after `rule`, or a tuple of `low` to `high` texts; see `check_bounds`."""
    return dataclasses.field(default=default, metadata={TEXT: rule, COUNT: (low, high)})


def listed(default: Any, low: int, high: int) -> Any:
    """A field of `low` to `high` elements; see `check_bounds`."""
    return dataclasses.field(default=default, metadata={COUNT: (low, high)})


def check_bounds(values: Any) -> None:
    """Raises FieldError for the first field of a configuration that is `bounded`, `named` or
    `listed` and outside of that."""
    owner = type(values).__name__
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if COUNT in field.metadata and isinstance(value, (tuple, dict)):
            low, high = field.metadata[COUNT]
            if not low <= len(value) <= high:
                problem = f"must have {low} to {high} elements, got {len(value)}"
                raise FieldError(problem, (field.name,), owner=owner)
        for path, item in _elements(value, (field.name,)):
            if problem := _problem_of(field, item):
                raise FieldError(problem, path, owner=owner)


def check_unique(field: str, names: Sequence[Any]) -> None:
    """Raises FieldError where an element of a tuple `field` has the name of an earlier one."""
    for index, name in enumerate(names):
        if name in names[:index]:
            problem = f"{show_value(name)} is there twice; give each another name"
            raise FieldError(problem, (field, index))


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


def _build(cls: type[C], values: Any, path: KeyPath) -> C:
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise FieldError(f"wanted a mapping, got {kind} {show_value(values)}", path)
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise FieldError(_unknown_key(key, known), path, line_path=(*path, key))
    if missing := _required(cls) - set(values):
        raise FieldError(f"key '{min(missing)}' is missing; it has no default", path)
    built = {key: _coerce(hints[key], value, (*path, key)) for key, value in values.items()}
    try:
        made = cls(**built)
        if check := getattr(made, "check_plausible", None):
            check()
        return made
    except FieldError as error:
        raise error.below(path) from error
    except (NacError, TypeError, ValueError, ArithmeticError) as error:
        raise FieldError(str(error), path) from error


def _located(error: FieldError, values: Any, where: str) -> str:
    """The message with its source, and the line where the source knows lines."""
    if isinstance(values, YamlMapping):
        return f"{where}, line {values.line_of(error.line_path)}: {error.text}"
    inside = f".{error.place}".replace(".[", "[") if error.path else ""
    if error.problem.startswith("must "):
        return f"{where}: {error.text}"
    return f"{where}{inside}: {error.problem}"


def _elements(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """The single values of a field, with their places."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _elements(item, (*path, index))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _elements(item, (*path, key))
    elif value is not None:
        yield path, value


def _problem_of(field: Any, value: Any) -> str:
    """What is wrong with one value of a field; '' if nothing is."""
    if TEXT in field.metadata:
        rule: TextRule = field.metadata[TEXT]
        if not (isinstance(value, str) and rule.pattern.fullmatch(value)):
            return f"must be {rule.text}, got {show_value(value)}"
    if BOUNDS in field.metadata:
        low, high = field.metadata[BOUNDS]
        if not (low <= value <= high and abs(value) != math.inf):
            unit = f" {field.metadata[UNIT]}" if field.metadata.get(UNIT) else ""
            limits = f"at least {low:g}" if high == math.inf else f"in {low:g} .. {high:g}"
            return f"must be {limits}{unit}, got {show_value(value)}"
    return ""


def _required(cls: Any) -> set[str]:
    unset = dataclasses.MISSING
    return {
        f.name
        for f in dataclasses.fields(cls)
        if f.init and f.default is unset and f.default_factory is unset
    }


def _unknown_key(key: Any, known: set[str]) -> str:
    near = difflib.get_close_matches(str(key)[:80], known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"
    return f"unknown key '{show_text(str(key))}'; {hint}"


def _coerce(hint: Any, value: Any, path: KeyPath) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, path)
    if origin is tuple:
        return _coerce_tuple(args, value, path)
    if origin is dict:
        return _coerce_dict(args, value, path)
    if origin is typing.Literal:
        if value not in args:
            raise FieldError(
                f"{show_value(value)} is not one of {', '.join(map(str, args))}", path
            )
        return value
    return _coerce_scalar(hint, value, path)


def _coerce_dict(args: tuple[Any, ...], value: Any, path: KeyPath) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise FieldError(f"wanted a mapping, got {show_value(value)}", path)
    if args[0] is str and (odd := [key for key in value if not isinstance(key, str)]):
        raise FieldError(f"key {show_value(odd[0])} is no text; put it in quotes", path)
    return {key: _coerce(args[1], item, (*path, key)) for key, item in value.items()}


def _coerce_tuple(args: tuple[Any, ...], value: Any, path: KeyPath) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise FieldError(f"wanted a list, got {show_value(value)}", path)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_coerce(args[0], item, (*path, i)) for i, item in enumerate(value))
    if len(args) != len(value):
        problem = f"wanted {len(args)} values, got {len(value)}: {show_value(value)}"
        raise FieldError(problem, path)
    return tuple(_coerce(a, v, (*path, i)) for i, (a, v) in enumerate(zip(args, value)))


_EXPONENT = re.compile(r"[+-]?\d{1,20}[eE][+-]?\d{1,4}")


def _coerce_scalar(hint: Any, value: Any, path: KeyPath) -> Any:
    if hint is float:
        value = _real(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise FieldError(f"wanted {hint.__name__}, got {show_value(value)}", path)
    if hint is float and not math.isfinite(value):
        raise FieldError(f"must be a finite number, got {value}", path)
    return value


def _real(value: Any) -> Any:
    """Whole numbers, and text that YAML takes 1e-3 for, as a float; all else as it is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def config_dir() -> Path:
    """config/ of the source tree, or share/nac_ros/config of an installed package."""
    root = Path(__file__).resolve().parents[2]
    places = [root / "config", *(p / "share/nac_ros/config" for p in root.parents)]
    for place in places:
        if (place / "robots").is_dir():
            return place
    raise ConfigError(f"no config/robots folder at {places[0]}; run `make setup` or install")
