"""What stands between any command and a motor: numpy alone, no torch, no ROS."""
