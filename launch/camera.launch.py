"""One camera; start it once for each camera."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import camera_graph

ARGUMENTS = {
    "camera": ("scene", "name of the camera in the robot's YAML"),
    "robot": ("", "name or YAML file of the robot; empty = as in config/nodes"),
    "source": ("", "realsense, v4l2 or file; empty = as in config/nodes"),
    "serial": ("", "serial number of a RealSense; empty = as in the robot's YAML"),
    "device": ("", "V4L2 device; empty = as in the robot's YAML"),
    "path": ("", "video file or folder of images"),
}


def generate_launch_description():
    """`ros2 launch nac_ros camera.launch.py camera:=wrist source:=v4l2`."""
    return describe(camera_graph, ARGUMENTS)
