"""Recording of demonstrations by teleoperation: cameras, teleop, guard, recorder, or the twin."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import record_graph

ARGUMENTS = {
    "robot": ("", "name or YAML file of the robot; `twin` starts the simulated arm"),
    "mapping": ("", "input device: gamepad, spacemouse, keyboard, leader, or a YAML file"),
    "source": ("", "source of all camera images: realsense, v4l2 or file"),
    "task": ("", "first prompt or task id; the topic `task` changes it"),
    "out": ("", "folder of the episodes"),
    "operator": ("", "name of the person who demonstrates; stored with each episode"),
    "note": ("", "note that is stored with each episode"),
}


def generate_launch_description():
    """`ros2 launch nac_ros record.launch.py robot:=twin task:=marker out:=data/morning`."""
    return describe(record_graph, ARGUMENTS)
