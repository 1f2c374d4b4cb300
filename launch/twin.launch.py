"""The simulated arm with its controller and cameras, to be driven by policy.launch.py."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import twin_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; empty = as in config/nodes"),
    "task": ("", "id of the simulated task"),
    "randomization": ("", "domain randomization: a name in config/randomization, or a YAML file"),
    "recordings": ("", "folder for the recorded states of each trial; empty = none"),
}


def generate_launch_description():
    """`ros2 launch nac_ros twin.launch.py task:=marker`."""
    return describe(twin_graph, ARGUMENTS)
