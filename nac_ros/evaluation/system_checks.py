"""What can be told of this machine, a robot's description and a bundle before anything moves."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nac_ros.core.errors import NacError
from nac_ros.core.realtime import HELP, realtime_obstacle
from nac_ros.robot.spec import RobotSpec

Level = Literal["ok", "warn", "fail"]
LOW_DISK, FULL_DISK = 20e9, 2e9  # [bytes] a day of recordings, and hardly anything
PYTHONS = ((3, 10), (3, 14))  # tested with 3.11; torch has wheels for these
SLOW_STOP_S = 1.0  # an arm that takes longer to stop is hard to catch


class CheckResult(NamedTuple):
    """One line: what was looked at, how it is, what was seen, and what to do about it."""

    check: str
    level: Level
    seen: str
    todo: str = ""


def examine(check: str, look: Callable[[], Iterator[CheckResult]]) -> list[CheckResult]:
    """The findings of `look`; whatever it raises is a finding too."""
    try:
        return list(look())
    except Exception as error:  # a doctor must survive every broken package
        reason = " ".join(str(error).split()) or type(error).__name__
        known = isinstance(error, NacError)
        todo = "" if known else f"`make setup` mends a broken environment ({type(error).__name__})"
        return [CheckResult(check, "fail", reason, todo)]


def python() -> Iterator[CheckResult]:
    """The interpreter."""
    low, high = PYTHONS
    good = low <= sys.version_info[:2] <= high
    seen = f"Python {sys.version.split()[0]} at {sys.prefix}"
    todo = "" if good else f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}, best 3.11"
    yield CheckResult("python", "ok" if good else "fail", seen, todo)


def rendering() -> Iterator[CheckResult]:
    """Offscreen GL, which only the twin needs."""
    from nac_ros.simulation.rendering import mujoco, open_renderer

    scene = "<mujoco><worldbody><light pos='0 0 2'/><geom size='1'/></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = open_renderer(model, 64, 64)
    renderer.update_scene(data)
    drawn = bool(renderer.render().any())
    seen = f"mujoco {mujoco.__version__} with MUJOCO_GL={os.environ['MUJOCO_GL']}"
    todo = "" if drawn else "the frame is black: try MUJOCO_GL=osmesa with libosmesa6"
    yield CheckResult("gl", "ok" if drawn else "fail", seen, todo)


def providers(graph: Path | None) -> Iterator[CheckResult]:
    """Which execution provider ONNX Runtime takes for `graph`, and why not a better one."""
    import onnxruntime
    import torch

    from nac_ros.export.onnx import PROVIDERS, OnnxDetokenizer

    there = onnxruntime.get_available_providers()
    best = next(name for name in PROVIDERS if name in there)
    chosen = best if graph is None else OnnxDetokenizer(graph).provider
    seen = f"onnxruntime {onnxruntime.__version__} decodes on {chosen}"
    gpu = shutil.which("nvidia-smi") is not None
    if chosen != best:
        todo = f"{best} is installed but did not start: check CUDA and cuDNN of the driver"
        yield CheckResult("providers", "warn", seen, todo)
    elif chosen != PROVIDERS[0] and gpu:
        todo = "this machine has a GPU: `make setup ONNX=gpu` installs the wheel that uses it"
        yield CheckResult("providers", "warn", seen, todo)
    else:
        why = "" if chosen == PROVIDERS[0] else ", the best without an NVIDIA GPU"
        yield CheckResult("providers", "ok", seen + why)
    sees = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    yield CheckResult(
        "torch", "ok", f"torch {torch.__version__} sees {sees}; the policy runs on the CPU"
    )


def scheduling() -> Iterator[CheckResult]:
    """Whether the guard may go before other processes of this user."""
    reason = realtime_obstacle()
    seen = (
        f"no real-time priority: {reason}" if reason else "the guard may have real-time priority"
    )
    yield CheckResult("priority", "warn" if reason else "ok", seen, HELP if reason else "")


def disk(folder: Path) -> Iterator[CheckResult]:
    """Space where runs and recordings go."""
    place = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    level: Level = "ok" if free > LOW_DISK else "warn" if free > FULL_DISK else "fail"
    todo = (
        "" if level == "ok" else "free some before recording: an hour of two cameras takes 10 GB"
    )
    yield CheckResult("disk", level, f"{free / 1e9:.0f} GB free at {place}", todo)


def bundle(folder: Path, spec: RobotSpec | None) -> Iterator[CheckResult]:
    """Hashes and golden vectors of a bundle, and whether it belongs to the robot."""
    from nac_ros.export.bundle import load_bundle

    loaded = load_bundle(folder)
    tasks = ", ".join(loaded.manifest.tasks)
    seen = f"{folder}: hashes and golden vectors hold; robot {loaded.robot.name}, tasks {tasks}"
    yield CheckResult("bundle", "ok", seen)
    if spec is not None:
        loaded.check_robot(spec)
        yield CheckResult("bundle", "ok", f"made for the robot {spec.name} as it is described")


def limits(spec: RobotSpec) -> Iterator[CheckResult]:
    """Whether a robot's limits fit each other and its rates."""
    stop = spec.velocity_limit / spec.acceleration_limit
    stop += spec.acceleration_limit / spec.jerk_limit
    joint = int(stop.argmax())
    seen = f"from full speed {spec.joint_names[joint]} stops in {stop[joint]:.2f} s, the slowest"
    slow = stop[joint] > SLOW_STOP_S
    todo = "raise its acceleration or lower its velocity limit" if slow else ""
    yield CheckResult("limits", "warn" if slow else "ok", seen, todo)
    reach = spec.velocity_limit * stop / 2
    short = reach > (spec.position_high - spec.position_low) / 2
    if short.any():
        names = ", ".join(n for n, s in zip(spec.joint_names, short) if s)
        todo = "lower the velocity limit: full speed is never reached inside the position limits"
        yield CheckResult("limits", "warn", f"{names} cannot stop within half the range", todo)
    ramp = spec.acceleration_limit / spec.jerk_limit * spec.guard_rate_hz
    if (ramp < 1).any():
        names = ", ".join(n for n, r in zip(spec.joint_names, ramp) if r < 1)
        todo = f"choose a jerk limit below acceleration x {spec.guard_rate_hz:.0f} per second"
        yield CheckResult("limits", "warn", f"the jerk limit of {names} limits nothing", todo)
    margin = np.minimum(spec.home - spec.position_low, spec.position_high - spec.home)
    at_end = (margin <= 0) & spec.relative_mask
    if at_end.any():
        names = ", ".join(n for n, a in zip(spec.joint_names, at_end) if a)
        yield CheckResult("limits", "warn", f"home of {names} lies on a limit", "move home inside")
