"""Simulated worlds behind one interface: suites of tasks, one file each, registered by name."""

from nac_ros.core.errors import UnknownName
from nac_ros.core.registry import Registry
from nac_ros.environments.base import Environment, EnvironmentSpec, Suite

SUITES: Registry[Suite] = Registry(
    "suite of environments", "nac_ros.environments", helpers=("base", "gymnasium_adapter")
)


def list_environments() -> list[str]:
    """Names `suite/task` of all environments, also of suites that are not installed."""
    return [f"{name}/{task}" for name in SUITES.names() for task in SUITES.get(name)().tasks()]


def environment_spec(name: str) -> EnvironmentSpec:
    """The spec of an environment without starting it; raises UnknownName."""
    suite, task = _find(name)
    return suite.spec(task)


def make_environment(name: str, cameras: tuple[str, ...] = ()) -> Environment:
    """Starts the environment `suite/task`.

    cameras: those whose images are observed
    Raises UnknownName, or SimulationError if the suite is not installed or has no such camera.
    """
    suite, task = _find(name)
    return suite.make(task, cameras)


def _find(name: str) -> tuple[Suite, str]:
    suite_name, _, task = name.partition("/")
    suite = SUITES.get(suite_name)()
    if task not in suite.tasks():
        known = ", ".join(suite.tasks())
        raise UnknownName(f"unknown task '{task}' of suite {suite_name}; known are: {known}")
    return suite, task
