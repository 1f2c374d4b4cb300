"""Stacking two cubes."""

from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.stacking import Stacking, cube_start


@TASKS.register("two_blocks")
class TwoBlocks(Stacking):
    """The expert puts the red cube on the blue one."""

    id = "two_blocks"
    prompt = "Stack the two cubes."
    recoverable_steps = 95
    start_poses = (cube_start("blue", 0.32, 0.12, 0.04), cube_start("red", 0.31, -0.05, 0.05))
