"""The operator console in a web browser: server, access control, page and its texts; no ROS."""
