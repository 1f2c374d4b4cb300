"""ROS 2: the only importer of rclpy and messages; one thin file per node, the rest serves them."""
