"""From observations to action chunks on the robot: engine, chunk transitions, replanning."""
