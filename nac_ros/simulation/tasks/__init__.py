"""Tasks of the twin: one file each, found by name."""

from nac_ros.core.registry import Registry
from nac_ros.simulation.tasks.base import Task

TASKS: Registry[Task] = Registry(
    "task", "nac_ros.simulation.tasks", helpers=("base", "chess_pieces", "cloth", "stacking")
)


def list_tasks() -> list[str]:
    """Ids of the tasks that the twin can play, sorted."""
    return TASKS.names()


def make_task(task_id: str) -> Task:
    """The task called so; raises UnknownName with the ids that are known."""
    return TASKS.get(task_id)()
