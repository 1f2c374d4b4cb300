"""Cameras without ROS: RealSense, V4L2, video files; capture thread, clock synchronisation."""
