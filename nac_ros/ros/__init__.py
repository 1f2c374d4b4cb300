"""Adapters between ROS 2 and the package: messages, parameters, diagnostics, launch, security."""
