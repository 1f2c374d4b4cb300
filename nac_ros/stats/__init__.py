"""Statistics without a robot: intervals, hypothesis tests, power, smoothness of motion."""
