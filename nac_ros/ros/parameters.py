"""Declares the ROS parameters of a node from a dataclass, which holds the defaults."""

import dataclasses
import inspect
import re
from array import array
from collections.abc import Collection
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node

from nac_ros.core import config
from nac_ros.core.errors import ConfigError

C = TypeVar("C")
FLOAT_MAX, INT_MAX = 1e308, 2**62  # a range of ROS needs an upper end


def declare(node: Node, cls: type[C], changeable: Collection[str] = ()) -> C:
    """Declares every field as a parameter and reads them; those not in `changeable` are read-only.

    Raises ConfigError for an invalid value.
    """
    texts = _descriptions(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        descriptor = ParameterDescriptor(
            description=texts.get(field.name, ""), read_only=field.name not in changeable
        )
        if (bounds := field.metadata.get(config.BOUNDS)) is not None:
            _set_range(descriptor, field.default, *bounds)
        try:
            node.declare_parameter(field.name, _declared(field.default, descriptor), descriptor)
        except InvalidParameterTypeException as error:
            raise ConfigError(f"node {node.get_name()}: {error}") from error
    return read(node, cls)


def read(node: Node, cls: type[C]) -> C:
    """The configuration with the present parameters; raises ConfigError for an invalid value."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {name: node.get_parameter(name).value for name in names}
    values = {k: list(v) if isinstance(v, array) else v for k, v in values.items()}
    return config.build(cls, values, f"parameters of {node.get_name()}")


def _declared(default: Any, descriptor: ParameterDescriptor) -> Any:
    """The default as a ROS value; a tuple is a list, of no known type if it is empty."""
    if not isinstance(default, tuple):
        return default
    descriptor.dynamic_typing = True
    return list(default)


def _set_range(descriptor: ParameterDescriptor, default: Any, low: float, high: float) -> None:
    if isinstance(default, float):
        bounds = FloatingPointRange(from_value=low, to_value=min(high, FLOAT_MAX))
        descriptor.floating_point_range = [bounds]
    else:
        bounds = IntegerRange(from_value=int(low), to_value=int(min(high, INT_MAX)), step=1)
        descriptor.integer_range = [bounds]


def _descriptions(cls: type) -> dict[str, str]:
    """Field -> text, from the lines `field: text` or `field, field: text` of class docstrings."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        for names, text in re.findall(r"^(\w+(?:, \w+)*): (.+(?:\n[ ]+.+)*)", doc, re.MULTILINE):
            texts.update(dict.fromkeys(names.split(", "), " ".join(text.split())))
    return texts
