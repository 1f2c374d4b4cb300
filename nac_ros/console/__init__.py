"""The operator's page in a browser: what a sitting shows and is told, without ROS."""
