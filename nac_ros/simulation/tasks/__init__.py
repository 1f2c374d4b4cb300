"""Tasks of the twin: one file each, registered by its id."""

from nac_ros.core.registry import Registry
from nac_ros.simulation.tasks.base import Task

TASKS: Registry[Task] = Registry(
    "task", "nac_ros.simulation.tasks", helpers=("base", "chess_pieces", "cloth", "stacking")
)


def list_tasks() -> list[str]:
    """Ids of all tasks, sorted."""
    return TASKS.names()


def make_task(task_id: str) -> Task:
    """A new instance of the task `task_id`; raises UnknownName with the known ids."""
    return TASKS.get(task_id)()
