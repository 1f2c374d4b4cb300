"""The simulated arm with its controller and cameras, for policy.launch.py to drive."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import twin_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; empty = as config/nodes says"),
    "task": ("", "id of the simulated task"),
    "scenes": ("", "how scenes vary: a name in config/scenes or a YAML file; empty = nominal"),
    "recordings": ("", "folder for a recording of each trial; empty = none"),
}


def generate_launch_description():
    """`ros2 launch nac_ros twin.launch.py task:=marker`."""
    return describe(twin_graph, ARGUMENTS)
