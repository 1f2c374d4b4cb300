"""Blind evaluation by a person in a web browser, on a real arm or on the twin."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import evaluate_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; `twin` starts the simulated arm"),
    "protocol": ("", "YAML file with tasks and methods, see docs/trials.md"),
    "out": ("", "run folder, continued if it exists; empty = a new one"),
    "source": ("", "source of all camera images: realsense, v4l2 or file"),
    "operator": ("", "name of the person who judges; stored with each verdict and recording"),
    "host": ("", "address on which the page is served; empty = this machine only"),
    "port": ("", "port of the page; empty = 8080"),
}


def generate_launch_description():
    """`ros2 launch nac_ros evaluate.launch.py robot:=twin protocol:=protocol.yaml`."""
    return describe(evaluate_graph, ARGUMENTS)
