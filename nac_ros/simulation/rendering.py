"""Imports MuJoCo with an offscreen GL; every other module imports MuJoCo from here."""

import atexit
import os

from nac_ros.core.errors import SimulationError

GL_FIX = "install GL with `apt-get install libegl1 libgl1-mesa-dri`, or set MUJOCO_GL=osmesa"

os.environ.setdefault("MUJOCO_GL", "egl")
try:
    import mujoco
except ModuleNotFoundError as error:
    raise SimulationError(
        f"the simulator needs {error.name}; run `pip install nac_ros[sim]`"
    ) from error
except (ImportError, AttributeError, RuntimeError, OSError) as error:
    raise SimulationError(
        f"no offscreen GL with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}); {GL_FIX}"
    ) from error


def open_renderer(model: "mujoco.MjModel", width: int, height: int) -> "mujoco.Renderer":
    """An offscreen renderer of this size [pixels]; raises SimulationError without a working GL."""
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # PyOpenGL, EGL and OSMesa each raise their own types
        raise SimulationError(
            f"cannot render with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}); {GL_FIX}"
        ) from error
    atexit.register(
        renderer.close
    )  # EGL complains if it is closed after the interpreter's clean-up
    return renderer


__all__ = ["GL_FIX", "mujoco", "open_renderer"]
