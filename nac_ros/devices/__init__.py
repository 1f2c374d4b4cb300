"""Cameras without ROS: where pictures come from, when they were taken, and what goes wrong."""
