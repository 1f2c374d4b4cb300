"""Checks the dependencies of nac_ros by using each of them; prints a line per check."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

APT = "apt-get install -y libegl1 libgl1 libgl1-mesa-dri libglib2.0-0"
PACKAGES = (
    *("numpy", "yaml", "scipy", "pyarrow", "safetensors", "torch", "mink", "ruckig", "av"),
    *("matplotlib", "onnx", "onnxscript", "h5py", "pytest", "hypothesis"),
)


class Check(NamedTuple):
    """`run` returns a description of what works, or raises; `fix`: advice if it raises."""

    run: Callable[[], str]
    fix: str


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing, only set the exit code"
    )
    arguments = parser.parse_args(argv)
    failed = 0
    for name in arguments.only:
        good, line = run_check(CHECKS[name])
        failed += not good
        if not arguments.quiet:
            print(f"{'ok  ' if good else 'FAIL'}  {name:9s} {line}", flush=True)
    return int(failed > 0)


def run_check(check: Check) -> tuple[bool, str]:
    """Whether the check passed, and the line to print."""
    try:
        return True, check.run()
    except Exception as error:  # whatever a package raises becomes one line
        reason = " ".join(str(error).split()) or type(error).__name__
        fix = "run `make setup`" if isinstance(error, ModuleNotFoundError) else check.fix
        return False, f"{reason}; {fix}"


def check_packages() -> str:
    os.environ.setdefault("MUJOCO_GL", "egl")  # mink imports mujoco, which reads it once
    missing = [name for name in PACKAGES if not _imports(name)]
    if missing:
        raise RuntimeError(f"cannot import {', '.join(missing)}")
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"Python {sys.version.split()[0]}, torch {torch.__version__} ({gpu})"


def check_images() -> str:
    import cv2
    import numpy as np

    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    coded = cv2.imencode(".png", image)[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    if decoded is None or not np.array_equal(decoded, image):
        raise RuntimeError("OpenCV changed an image by encoding and decoding it as PNG")
    return f"opencv {cv2.__version__}"


def check_gl() -> str:
    from nac_ros.simulation.rendering import mujoco, open_renderer
    from nac_ros.simulation.scene import assets_dir

    if not (assets_dir() / "vx300s_left.xml").is_file():
        raise RuntimeError(f"the arm's model is not in {assets_dir()}")
    ball = "<mujoco><worldbody><light pos='0 0 2'/><geom size='1'/></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(ball)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = open_renderer(model, 64, 64)
    renderer.update_scene(data)
    if not renderer.render().any():
        raise RuntimeError("the rendered frame is black")
    return f"mujoco {mujoco.__version__} rendered a frame with {os.environ['MUJOCO_GL']}"


def check_ros() -> str:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier
    from trajectory_msgs.msg import JointTrajectory

    rclpy.init()
    try:
        node = rclpy.create_node("nac_ros_setup_check")
        node.create_publisher(JointTrajectory, "nac_ros_setup_check", 1)
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    return f"a node started on {get_rmw_implementation_identifier()}, rclpy at {_folder(rclpy)}"


def check_onnx() -> str:
    import numpy as np
    import onnx
    import onnxruntime

    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(found) > 1:
        raise RuntimeError(f"{' and '.join(found)} are installed and overwrite each other's files")
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> double (float[2] x) => (float[2] y) '
        "{ y = Add(x, x) }"
    )
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=providers)
    (doubled,) = session.run(None, {"x": np.array([1, 2], np.float32)})
    if doubled.tolist() != [2, 4]:
        raise RuntimeError(f"ONNX Runtime computed {doubled.tolist()} for [1 + 1, 2 + 2]")
    return f"{found[0]} {_version(found[0])} ran a graph on {session.get_providers()[0]}"


def check_package() -> str:
    import nac_ros
    from nac_ros.cli.ros import NODES
    from nac_ros.robot.spec import list_robots

    share = Path(sys.prefix) / "share/nac_ros"
    absent = [name for name in ("package.xml", "config", "launch") if not (share / name).exists()]
    lib = Path(sys.prefix) / "lib/nac_ros"
    absent += [name for name in NODES if not os.access(lib / name, os.X_OK)]
    if absent:
        raise RuntimeError(f"{sys.prefix} lacks {', '.join(absent)} for `ros2 run nac_ros`")
    return f"nac_ros at {_folder(nac_ros)}, robots {', '.join(list_robots())}"


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _folder(module: object) -> str:
    return str(Path(str(getattr(module, "__file__", ""))).parent)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


CHECKS = {
    "packages": Check(check_packages, "run `make setup`; its log is .venv/setup.log"),
    "images": Check(check_images, f"as root: {APT}"),
    "gl": Check(check_gl, f"as root: {APT}"),
    "ros": Check(check_ros, "source your ROS 2, or run `make setup` in a shell without one"),
    "onnx": Check(check_onnx, "pip uninstall onnxruntime onnxruntime-gpu, then `make setup`"),
    "package": Check(check_package, "run `make setup`"),
}

if __name__ == "__main__":
    sys.exit(main())
