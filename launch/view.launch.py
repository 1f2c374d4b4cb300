"""Cameras, joints, tokens, latency and guard state of the running graph, in a rerun viewer."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import view_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; empty = as in config/nodes"),
    "save": ("", "path of a new .rrd file; empty = open a viewer"),
    "connect": ("", "host:port of the viewer; empty = on this machine"),
}


def generate_launch_description():
    """`ros2 launch nac_ros view.launch.py save:=run.rrd`."""
    return describe(view_graph, ARGUMENTS)
