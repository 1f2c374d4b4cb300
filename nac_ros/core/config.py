"""Configuration as frozen dataclasses: built from YAML or plain values, with rules per field."""

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
    UnknownName,
    show_text,
    show_value,
)
from nac_ros.core.yaml_reader import YamlMapping
from nac_ros.core.yaml_reader import load_yaml as load_yaml
from nac_ros.core.yaml_reader import parse_mapping as parse_mapping

C = TypeVar("C")
KeyPath = tuple[Any, ...]  # keys and indices that lead from a configuration to a value
BOUNDS, UNIT, TEXT, COUNT = "bounds", "unit", "text", "count"  # keys of a field's metadata
MAX_MESSAGE = 1200  # characters
MAX_PATH = 4000  # characters of a path; longer ones name no file
REQUIRED: Any = dataclasses.MISSING  # as the default of a field that has none


class TextRule(NamedTuple):
    """A pattern that a whole text must match, and its description for messages."""

    pattern: re.Pattern[str]
    description: str


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
# All but control characters, line separators, bidirectional marks and surrogates.
_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
LABEL = TextRule(re.compile(rf"(?=.*\S){_PRINTABLE}{{1,64}}"), "1 to 64 printable characters")
SENTENCE = TextRule(
    re.compile(rf"(?=.*\S){_PRINTABLE}{{1,1000}}"), "1 to 1000 printable characters, in one line"
)
FILE = TextRule(re.compile(rf"{_PRINTABLE}{{0,4000}}"), "a path of printable characters")
OPTION = TextRule(re.compile(rf"{_PRINTABLE}{{0,256}}"), "at most 256 printable characters")


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Builds a frozen dataclass from plain values, with nested dataclasses, tuples and dicts.

    where: names the source in errors; for values from a YAML file the line is added

    Raises ConfigError for an unknown key, with the nearest known one, for a missing key, a wrong
    type, a number that is not finite, and for what `__post_init__` or a method `check_plausible`
    of a class rejects.
    """
    try:
        return _build(cls, values, ())
    except FieldError as error:
        text = _located(error, values, where or cls.__name__)
        raise ConfigError(show_text(text, MAX_MESSAGE)) from error


def list_names(folder: str) -> list[str]:
    """Names of the YAML files in config/<folder>, without `.yaml`."""
    return sorted(path.stem for path in (config_dir() / folder).glob("*.yaml"))


def load_named(folder: str, name_or_path: str | Path, cls: type[C], kind: str) -> C:
    """Builds `cls` from config/<folder>/<name>.yaml, or from the YAML file at a given path.

    kind: what is loaded, for errors. Raises UnknownName and ConfigError.
    """
    path = Path(name_or_path)
    is_name = path.suffix != ".yaml"
    if is_name:
        path = config_dir() / folder / f"{name_or_path}.yaml"
    if len(str(path)) > MAX_PATH or not path.is_file():
        shown = show_text(str(name_or_path), 300)
        missing = "" if is_name else ": there is no such file"
        known = ", ".join(list_names(folder))
        raise UnknownName(
            f"unknown {kind} '{shown}'{missing}; known are: {known}, or the path of a .yaml file"
        )
    return build(cls, load_yaml(path), path.name)


def number_field(default: Any, low: float, high: float = math.inf, unit: str = "") -> Any:
    """A field of finite numbers from `low` to `high`, also inside of tuples and dicts.

    default: REQUIRED for none; unit: for errors. `check_fields` enforces the range.
    """
    return dataclasses.field(default=default, metadata={BOUNDS: (low, high), UNIT: unit})


def text_field(default: Any, rule: TextRule, low: int = 0, high: int = 64) -> Any:
    """A field with a text that matches `rule`, or a tuple of `low` to `high` such texts."""
    return dataclasses.field(default=default, metadata={TEXT: rule, COUNT: (low, high)})


def sequence_field(default: Any, low: int, high: int) -> Any:
    """A field with `low` to `high` elements."""
    return dataclasses.field(default=default, metadata={COUNT: (low, high)})


def check_fields(values: Any) -> None:
    """Raises FieldError for the first field that violates its `number_field`, `text_field` or
    `sequence_field`; call it in `__post_init__`."""
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
    """Raises FieldError if two elements of a tuple `field` have the same name."""
    for index, name in enumerate(names):
        if name in names[:index]:
            problem = f"{show_value(name)} occurs twice; give each element its own name"
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


def config_dir() -> Path:
    """config/ of the source tree, or share/nac_ros/config of an installed package."""
    root = Path(__file__).resolve().parents[2]
    folders = [root / "config", *(p / "share/nac_ros/config" for p in root.parents)]
    for folder in folders:
        if (folder / "robots").is_dir():
            return folder
    raise ConfigError(f"no config/robots folder at {folders[0]}; run `make setup` or install")


def _build(cls: type[C], values: Any, path: KeyPath) -> C:
    if not isinstance(values, Mapping):
        text = f"wanted a mapping, got {type(values).__name__} {show_value(values)}"
        raise FieldError(text, path)
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise FieldError(_unknown_key(key, list(known)), path, line_path=(*path, key))
    if missing := [n for n, f in known.items() if n not in values and _is_required(f)]:
        raise FieldError(f"key '{min(missing)}' is missing; it has no default", path)
    fields = {key: _convert(hints[key], value, (*path, key)) for key, value in values.items()}
    try:
        built = cls(**fields)
        if check := getattr(built, "check_plausible", None):
            check()
        return built
    except FieldError as error:
        raise error.below(path) from error
    except (NacError, TypeError, ValueError, ArithmeticError) as error:
        raise FieldError(str(error), path) from error


def _located(error: FieldError, values: Any, where: str) -> str:
    """The message with its source, and with the line if the source is a YAML file."""
    if isinstance(values, YamlMapping):
        return f"{where}, line {values.line_of(error.line_path)}: {error.text}"
    inside = f".{error.place}".replace(".[", "[") if error.path else ""
    if error.problem.startswith("must "):
        return f"{where}: {error.text}"
    return f"{where}{inside}: {error.problem}"


def _elements(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """The single values inside a field, each with its path."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _elements(item, (*path, index))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _elements(item, (*path, key))
    elif value is not None:
        yield path, value


def _problem_of(field: Any, value: Any) -> str:
    """The rule of a field that one of its values violates, '' if none."""
    if TEXT in field.metadata:
        rule: TextRule = field.metadata[TEXT]
        if not (isinstance(value, str) and rule.pattern.fullmatch(value)):
            return f"must be {rule.description}, got {show_value(value)}"
    if BOUNDS in field.metadata:
        low, high = field.metadata[BOUNDS]
        if not (low <= value <= high and abs(value) != math.inf):
            unit = f" {field.metadata[UNIT]}" if field.metadata.get(UNIT) else ""
            limits = f"at least {low:g}" if high == math.inf else f"in {low:g} .. {high:g}"
            return f"must be {limits}{unit}, got {show_value(value)}"
    return ""


def _is_required(field: Any) -> bool:
    return field.default is REQUIRED and field.default_factory is REQUIRED


def _unknown_key(key: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key)[:80], known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"
    return f"unknown key '{show_text(str(key))}'; {hint}"


def _convert(hint: Any, value: Any, path: KeyPath) -> Any:
    """The value as the type `hint`, by the kind of type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # X | None
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if origin is tuple:
        return _convert_tuple(args, value, path)
    if origin is dict:
        return _convert_dict(args, value, path)
    if origin is typing.Literal:
        if value in args:
            return value
        raise FieldError(f"{show_value(value)} is not one of {', '.join(map(str, args))}", path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, path)
    return _convert_scalar(hint, value, path)


def _convert_dict(args: tuple[Any, ...], value: Any, path: KeyPath) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise FieldError(f"wanted a mapping, got {show_value(value)}", path)
    if args[0] is str and (odd := [key for key in value if not isinstance(key, str)]):
        raise FieldError(f"key {show_value(odd[0])} is no text; put it in quotes", path)
    return {key: _convert(args[1], item, (*path, key)) for key, item in value.items()}


def _convert_tuple(args: tuple[Any, ...], value: Any, path: KeyPath) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise FieldError(f"wanted a list, got {show_value(value)}", path)
    if len(args) == 2 and args[1] is Ellipsis:
        args = args[:1] * len(value)
    if len(args) != len(value):
        problem = f"wanted {len(args)} values, got {len(value)}: {show_value(value)}"
        raise FieldError(problem, path)
    return tuple(_convert(a, v, (*path, i)) for i, (a, v) in enumerate(zip(args, value)))


# YAML 1.1 reads 1e-3 as text, because a float needs a decimal point.
_EXPONENT = re.compile(r"[+-]?\d{1,20}[eE][+-]?\d{1,4}")


def _convert_scalar(hint: Any, value: Any, path: KeyPath) -> Any:
    if hint is float:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        fits = is_integer and abs(value) < 2**1023
        if fits or (isinstance(value, str) and _EXPONENT.fullmatch(value)):
            value = float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise FieldError(f"wanted {hint.__name__}, got {show_value(value)}", path)
    if hint is float and not math.isfinite(value):
        raise FieldError(f"must be a finite number, got {value}", path)
    return value
