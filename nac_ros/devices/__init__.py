"""Devices without ROS: the hands that lead an arm, and the cameras that watch it."""
