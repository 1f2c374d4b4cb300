"""LeRobot data sets (v3.0 written, v2.1 and v3.0 read)."""
