"""Stacking three cubes."""

from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.stacking import Stacking, cube_start


@TASKS.register("three_blocks")
class ThreeBlocks(Stacking):
    """The expert puts the red cube on the blue one, then the yellow one on the red."""

    id = "three_blocks"
    prompt = "Stack the three cubes."
    recoverable_steps = 95
    start_poses = (
        cube_start("blue", 0.36, 0.06, 0.03),
        cube_start("red", 0.32, -0.07, 0.04),
        cube_start("yellow", 0.26, 0.16, 0.03),
    )
