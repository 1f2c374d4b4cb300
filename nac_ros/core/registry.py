"""Registry: maps a name to the class in the file of that name, and imports only that file."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from nac_ros.core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """The names are those of the files in `package` with a `@REGISTRY.register(name)` class.

    kind: what is registered, for errors
    helpers: files of the package that register nothing (base classes, shared functions)
    """

    def __init__(self, kind: str, package: str, helpers: tuple[str, ...] = ()):
        self.kind = kind
        self._package = package
        self._helpers = frozenset(helpers)
        self._classes: dict[str, type[T]] = {}

    def names(self) -> list[str]:
        """All names, sorted; imports none of the files."""
        path = importlib.import_module(self._package).__path__
        found = {module.name for module in pkgutil.iter_modules(path)}
        return sorted(found - self._helpers | set(self._classes))

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; `name` must be the name of the file."""

        def add(cls: type[T]) -> type[T]:
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> type[T]:
        """The class of that name; raises UnknownName with the known ones."""
        if name not in self._classes:
            if name not in self.names():
                known = ", ".join(self.names())
                raise UnknownName(f"unknown {self.kind} '{name}'; known are: {known}")
            importlib.import_module(f"{self._package}.{name}")
        return self._classes[name]
