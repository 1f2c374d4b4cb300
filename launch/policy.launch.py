"""Guard and policy for an arm whose driver, controllers and cameras run, or with the twin."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import policy_stack

ARGUMENTS = {
    "bundle": ("", "folder of the bundle; empty = models/default of the package"),
    "robot": ("", "name or YAML file of the robot; `twin` starts the simulated arm too"),
    "task": ("", "prompt or task id at the start; the topic `task` changes it"),
}


def generate_launch_description():
    """`ros2 launch nac_ros policy.launch.py robot:=twin task:=marker`; then call policy/start."""
    return describe(policy_stack, ARGUMENTS)
