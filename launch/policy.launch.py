"""Guard and policy for a real arm whose driver, controllers and cameras run, or with the twin."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import policy_stack

ARGUMENTS = {
    "bundle": ("", "bundle folder; empty = models/default of the package"),
    "robot": ("", "name or YAML file of the robot; `twin` starts the simulated arm too"),
    "task": ("", "first prompt or task id; the topic `task` changes it"),
}


def generate_launch_description():
    """`ros2 launch nac_ros policy.launch.py robot:=twin task:=marker`; then call policy/start."""
    return describe(policy_stack, ARGUMENTS)
