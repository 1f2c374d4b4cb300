"""Checks of a machine, a robot description and a bundle before a run, without ROS."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.device import DeviceConfig, resolve_device
from nac_ros.core.errors import NacError
from nac_ros.core.realtime import HELP, realtime_obstacle
from nac_ros.robot.spec import RobotSpec

Level = Literal["ok", "warn", "fail"]
LOW_DISK, FULL_DISK = 20e9, 2e9  # bytes; 10 GB is about an hour of recordings
PYTHONS = ((3, 10), (3, 14))  # versions that torch has wheels for; tested with 3.11
SLOW_STOP_S = 1.0  # an arm that takes longer to stop is hard to control


class CheckResult(NamedTuple):
    """Result of one check: its name, what was measured, and how to fix it ('' if nothing is)."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def run_check(name: str, check: Callable[[], Iterator[CheckResult]]) -> list[CheckResult]:
    """The results of `check`; an exception becomes a failed result."""
    try:
        return list(check())
    except Exception as error:  # `nac doctor` must report every broken package
        detail = " ".join(str(error).split()) or type(error).__name__
        expected = isinstance(error, NacError)
        remedy = f"`make setup` repairs a broken environment ({type(error).__name__})"
        return [CheckResult(name, "fail", detail, "" if expected else remedy)]


def check_python() -> Iterator[CheckResult]:
    """The Python version."""
    low, high = PYTHONS
    supported = low <= sys.version_info[:2] <= high
    detail = f"Python {sys.version.split()[0]} at {sys.prefix}"
    remedy = f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}, preferably 3.11"
    if supported:
        yield CheckResult("python", "ok", detail)
    else:
        yield CheckResult("python", "fail", detail, remedy)


def check_rendering() -> Iterator[CheckResult]:
    """Offscreen rendering, which only the twin needs."""
    from nac_ros.simulation.rendering import mujoco, open_renderer

    scene = "<mujoco><worldbody><light pos='0 0 2'/><geom size='1'/></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = open_renderer(model, 64, 64)
    renderer.update_scene(data)
    detail = f"mujoco {mujoco.__version__} with MUJOCO_GL={os.environ['MUJOCO_GL']}"
    if renderer.render().any():
        yield CheckResult("gl", "ok", detail)
    else:
        remedy = "the image is black: try MUJOCO_GL=osmesa with libosmesa6"
        yield CheckResult("gl", "fail", detail, remedy)


def check_providers(graph: Path | None) -> Iterator[CheckResult]:
    """The execution provider that ONNX Runtime uses for `graph`, and the device of torch."""
    import onnxruntime
    import torch

    from nac_ros.export.onnx_session import PROVIDERS, OnnxDetokenizer

    found: list[CheckResult] = []
    available, order = onnxruntime.get_available_providers(), ("cuda", "cpu")
    best = next(PROVIDERS[name] for name in order if PROVIDERS[name] in available)
    used = best if graph is None else OnnxDetokenizer(graph, providers=order).provider
    detail = f"onnxruntime {onnxruntime.__version__} decodes on {used}"
    if used != best:
        remedy = f"{best} is installed but did not start: check CUDA and cuDNN of the driver"
        yield CheckResult("providers", "warn", detail, remedy)
    elif used != PROVIDERS["cuda"] and shutil.which("nvidia-smi") is not None:
        remedy = "this machine has a GPU: `make setup ONNX=gpu` installs the wheel that uses it"
        yield CheckResult("providers", "warn", detail, remedy)
    else:
        note = "" if used == PROVIDERS["cuda"] else ", the best without an NVIDIA GPU"
        yield CheckResult("providers", "ok", detail + note)
    resolve_device(
        DeviceConfig(),
        lambda text: found.append(
            CheckResult("torch", "ok", f"torch {torch.__version__}, {text}")
        ),
    )
    yield from found


def check_realtime_priority() -> Iterator[CheckResult]:
    """Whether the guard can get real-time priority."""
    if reason := realtime_obstacle():
        yield CheckResult("priority", "warn", f"no real-time priority: {reason}", HELP)
    else:
        yield CheckResult("priority", "ok", "the guard can get real-time priority")


def check_disk(folder: Path) -> Iterator[CheckResult]:
    """Free space for runs and recordings."""
    parent = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    level: Level = "ok" if free > LOW_DISK else "warn" if free > FULL_DISK else "fail"
    remedy = "free space before recording: an hour of two cameras takes 10 GB"
    detail = f"{free / 1e9:.0f} GB free at {parent}"
    yield CheckResult("disk", level, detail, "" if level == "ok" else remedy)


def check_bundle(folder: Path, spec: RobotSpec | None) -> Iterator[CheckResult]:
    """Hashes and golden vectors of a bundle, and whether it fits the robot."""
    from nac_ros.inference.load_runtime import load_runtime

    policy = load_runtime(folder)
    tasks = ", ".join(policy.observation_spec.tasks)
    detail = (
        f"{folder}: hashes and golden vectors verified; robot {policy.robot.name}, tasks {tasks}, "
        f"runs by {policy.name}"
    )
    yield CheckResult("bundle", "ok", detail)
    if spec is not None:
        policy.check_robot(spec)
        yield CheckResult("bundle", "ok", f"fits the description of robot {spec.name}")


def check_limits(spec: RobotSpec) -> Iterator[CheckResult]:
    """Whether a robot's limits are consistent with one another and with its rates."""
    velocity, acceleration, jerk = spec.velocity_limit, spec.acceleration_limit, spec.jerk_limit
    stop_s = velocity / acceleration + acceleration / jerk
    slowest = int(stop_s.argmax())
    name, seconds = spec.joint_names[slowest], stop_s[slowest]
    detail = f"from full speed {name} stops in {seconds:.2f} s, the slowest"
    if stop_s[slowest] > SLOW_STOP_S:
        remedy = "raise its acceleration or lower its velocity limit"
        yield CheckResult("limits", "warn", detail, remedy)
    else:
        yield CheckResult("limits", "ok", detail)

    def warn(joints: np.ndarray, detail: str, remedy: str) -> Iterator[CheckResult]:
        if joints.any():
            names = ", ".join(n for n, chosen in zip(spec.joint_names, joints) if chosen)
            yield CheckResult("limits", "warn", detail.format(names), remedy)

    half_range = (spec.position_high - spec.position_low) / 2
    yield from warn(
        velocity * stop_s / 2 > half_range,
        "{} cannot stop within half the range",
        "lower the velocity limit: full speed is never reached inside the position limits",
    )
    yield from warn(
        acceleration / jerk * spec.guard_rate_hz < 1,
        "the jerk limit of {} limits nothing",
        f"choose a jerk limit below acceleration x {spec.guard_rate_hz:.0f} per second",
    )
    margin = np.minimum(spec.home - spec.position_low, spec.position_high - spec.home)
    yield from warn(
        (margin <= 0) & spec.relative_mask,
        "the home position of {} is on a limit",
        "move it inside the limits",
    )
