"""What runs on the robot: observations in, chunks and actions out."""
