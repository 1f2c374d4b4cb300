"""NAC for ROS 2: actions as tokens, from demonstrations to a moving arm."""
