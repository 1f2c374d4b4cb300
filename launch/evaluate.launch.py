"""Blind trials judged by a person in a browser, on an arm whose driver runs, or on the twin."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import evaluate_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; `twin` starts the simulated arm"),
    "protocol": ("", "file that says what is compared, see docs/trials.md"),
    "out": ("", "folder of the run; one that is there is gone on with; empty = a new one"),
    "source": ("", "where every camera's pictures come from: realsense, v4l2 or file"),
    "operator": ("", "who judges; written beside each verdict and recording"),
    "host": ("", "address that the page is offered on; empty = this machine alone"),
    "port": ("", "of the page; empty = 8080"),
}


def generate_launch_description():
    """`ros2 launch nac_ros evaluate.launch.py robot:=twin protocol:=protocol.yaml`."""
    return describe(evaluate_graph, ARGUMENTS)
