"""Statistics without a robot: confidence intervals, hypothesis tests, power, smoothness of motion."""
