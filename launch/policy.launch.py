"""Guard and policy for an arm whose driver, controllers and cameras run already."""

from nac_ros.nodes.graph import policy_graph
from nac_ros.nodes.launching import describe

ARGUMENTS = {
    "bundle": ("", "folder of the bundle; empty = models/default of the package"),
    "robot": ("", "name or YAML file of the robot; empty = as config/nodes says"),
    "task": ("", "prompt or task id at the start; the topic `task` changes it"),
}


def generate_launch_description():
    """`ros2 launch nac_ros policy.launch.py bundle:=... task:=...`; then call policy/start."""
    return describe(policy_graph, ARGUMENTS)
