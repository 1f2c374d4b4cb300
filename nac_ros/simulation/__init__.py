"""The twin: a MuJoCo rehearsal of the arm, its controller, its cameras, tasks and experts."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # read once, when mujoco is first imported by any of us
