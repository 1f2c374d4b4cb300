"""One camera; start it once for each."""

from nac_ros.ros.launch_actions import describe
from nac_ros.ros.node_graph import camera_graph

ARGUMENTS = {
    "camera": ("scene", "its name in the robot's YAML"),
    "robot": ("", "name or YAML file of the robot; empty = as config/nodes says"),
    "source": ("", "realsense, v4l2 or file; empty = as config/nodes says"),
    "serial": ("", "of a RealSense; empty = the robot's YAML"),
    "device": ("", "of a V4L2 camera; empty = the robot's YAML"),
    "path": ("", "of a video file or a folder of pictures"),
}


def generate_launch_description():
    """`ros2 launch nac_ros camera.launch.py camera:=wrist source:=v4l2`."""
    return describe(camera_graph, ARGUMENTS)
