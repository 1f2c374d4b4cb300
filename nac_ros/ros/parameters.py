"""ROS parameters declared from a frozen configuration, so that a default is written once."""

import dataclasses
import inspect
import re
from array import array
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rcl_interfaces.srv import SetParameters
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.parameter import Parameter

from nac_ros.core import config
from nac_ros.core.errors import ConfigError, NacError

C = TypeVar("C")
FLOAT_MAX, INT_MAX = 1e308, 2**62  # ROS knows no range without an end


def declare(node: Node, cls: type[C], changeable: Collection[str] = ()) -> C:
    """Declares every field of a configuration and reads them; all but `changeable` are read only.

    Raises ConfigError for nonsense.
    """
    texts = _descriptions(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        descriptor = ParameterDescriptor(
            description=texts.get(field.name, ""), read_only=field.name not in changeable
        )
        if (bounds := field.metadata.get(config.BOUNDS)) is not None:
            _limit(descriptor, field.default, *bounds)
        try:
            node.declare_parameter(field.name, _declared(field.default, descriptor), descriptor)
        except InvalidParameterTypeException as error:
            raise ConfigError(f"node {node.get_name()}: {error}") from error
    return read(node, cls)


def send(call: Callable[..., Any], node: str, values: Mapping[str, Any]) -> None:
    """Sets another node's parameters.

    call: of a service, by type, name and request; raises NacError with the reason of a rejection
    """
    request = SetParameters.Request()
    request.parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
    for result in call(SetParameters, f"{node}/set_parameters", request).results:
        if not result.successful:
            raise NacError(f"node {node} refused {', '.join(values)}: {result.reason}")


def read(node: Node, cls: type[C]) -> C:
    """The configuration as the parameters have it now; raises ConfigError for nonsense."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {name: node.get_parameter(name).value for name in names}
    values = {k: list(v) if isinstance(v, array) else v for k, v in values.items()}
    return config.build(cls, values, f"parameters of {node.get_name()}")


def _declared(default: Any, descriptor: ParameterDescriptor) -> Any:
    """A list as ROS has it, which cannot tell the kind of an empty one."""
    if not isinstance(default, tuple):
        return default
    descriptor.dynamic_typing = True
    return list(default)


def _limit(descriptor: ParameterDescriptor, default: Any, low: float, high: float) -> None:
    if isinstance(default, float):
        bounds = FloatingPointRange(from_value=low, to_value=min(high, FLOAT_MAX))
        descriptor.floating_point_range = [bounds]
    else:
        bounds = IntegerRange(from_value=int(low), to_value=int(min(high, INT_MAX)), step=1)
        descriptor.integer_range = [bounds]


def _descriptions(cls: type) -> dict[str, str]:
    """Field -> text, from lines `field: text` or `field, field: text` of the class docstrings."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        for names, text in re.findall(r"^(\w+(?:, \w+)*): (.+(?:\n\s+.+)*)", doc, re.MULTILINE):
            texts.update(dict.fromkeys(names.split(", "), " ".join(text.split())))
    return texts
