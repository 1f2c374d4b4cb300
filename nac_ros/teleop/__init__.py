"""Teleoperation without ROS: input devices, dead-man clutch, jogging, leader arm."""
