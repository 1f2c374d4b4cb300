"""The twin: the arm, its controller, cameras and tasks in MuJoCo, and scripted experts."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it once, at its first import
