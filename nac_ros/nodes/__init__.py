"""The nine ROS 2 nodes, one file for each executable."""
