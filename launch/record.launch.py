"""Demonstrating by hand: cameras, teleoperation, guard and recorder, or with the simulated arm."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import record_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; `twin` starts the simulated arm"),
    "mapping": ("", "the hand: gamepad, spacemouse, keyboard, leader, or a YAML file like those"),
    "source": ("", "where every camera's pictures come from: realsense, v4l2 or file"),
    "task": ("", "prompt or task id at the start; the topic `task` changes it"),
    "out": ("", "folder of episodes"),
    "operator": ("", "who demonstrates; written beside each episode"),
    "note": ("", "written beside each episode"),
}


def generate_launch_description():
    """`ros2 launch nac_ros record.launch.py robot:=twin task:=marker out:=data/morning`."""
    return describe(record_graph, ARGUMENTS)
