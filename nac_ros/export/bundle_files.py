"""Files of a bundle and the checks that need no network: robot, limits, columns."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros.core import config as configs
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BundleError, ConfigError, NacError, show_text
from nac_ros.core.json_reader import read_bytes
from nac_ros.export.manifest import MANIFEST, Manifest
from nac_ros.robot.spec import RobotSpec, list_robots, load_robot

ROBOT, STATISTICS, CARD = "robot.yaml", "statistics.json", "README.md"
DETOKENIZER, GOLDEN = "detokenizer.onnx", "golden.safetensors"
MAX_ROBOT_BYTES = 256 << 10  # of robot.yaml
LIMITS = ("velocity", "acceleration", "jerk")
TOLERANCE = 1e-6  # relative; rounding of limits in YAML and of statistics in float32


def load_bundle_robot(path: Path) -> RobotSpec:
    """robot.yaml, checked like every robot description; raises BundleError."""
    read_bytes(path, BundleError, MAX_ROBOT_BYTES)
    try:
        return configs.build(RobotSpec, configs.load_yaml(path), str(path))
    except (NacError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is no valid robot file: {show_text(error, 400)}; export the bundle again"
        ) from error


def require_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raises BundleError unless the manifest lists `names`: only listed files are verified."""
    for name in names:
        if name not in manifest.files:
            raise BundleError(
                f"{folder}: {MANIFEST} does not list {name}, which every bundle needs; export it "
                "again"
            )


def check_limits(robot: RobotSpec, path: Path) -> None:
    """Raises BundleError if config/robots has a robot of that name with narrower limits.

    The guard uses the limits of the robot's own file. A bundle must not state wider ones, which
    other programs might use.
    """
    if robot.name not in list_robots():
        return
    allowed = {joint.name: joint for joint in load_robot(robot.name).joints}
    for joint in robot.joints:
        if (limit := allowed.get(joint.name)) is None or limit.unit != joint.unit:
            continue  # a different robot of the same name; `check_robot` rejects it
        (low, high), (lowest, highest) = joint.position, limit.position
        margin = TOLERANCE * (highest - lowest)
        wider = [
            f"{field} {getattr(joint, field):g}"
            for field in LIMITS
            if getattr(joint, field) > getattr(limit, field) * (1 + TOLERANCE)
        ]
        if low < lowest - margin or high > highest + margin:
            wider.insert(0, f"position {low:g} .. {high:g}")
        if wider:
            raise BundleError(
                f"{path / ROBOT}: joint {joint.name} has {', '.join(wider)}, wider than "
                f"robot {robot.name} allows in config/robots; correct the wrong one and export "
                "the bundle again"
            )


def check_columns(spec: ChunkSpec, robot: RobotSpec) -> None:
    """Raises ConfigError unless names and units of the chunks' columns, if known, are those of the
    robot's joints."""
    for field, ours, theirs in (
        ("names", spec.names, robot.joint_names),
        ("units", spec.units, robot.units),
    ):
        if ours and ours != theirs:
            raise ConfigError(
                f"the trained chunks' {field} are {_listed(ours)}, those of robot "
                f"{robot.name} {_listed(theirs)}; use the robot of the data, or train with "
                f"--robot {robot.name} on data that has its {field}"
            )


def check_robot(trained: RobotSpec, spec: RobotSpec, cameras: Sequence[str], path: Path) -> None:
    """Raises BundleError unless `spec` has the joints, units, rate and cameras of the robot that
    the bundle at `path` was trained for."""
    for field in ("joint_names", "units", "action_rate_hz"):
        ours, theirs = getattr(trained, field), getattr(spec, field)
        if ours != theirs:
            raise BundleError(
                f"{path} was trained for {trained.name} with {field} {ours}; robot "
                f"{spec.name} has {theirs}"
            )
    for name in cameras:
        mine, other = trained.camera(name), spec.camera(name)
        if (mine.height, mine.width) != (other.height, other.width):
            raise BundleError(
                f"{path} was trained on {mine.width}x{mine.height} images of camera "
                f"'{name}'; robot {spec.name} sends {other.width}x{other.height}"
            )


def is_equal(found: list[Any], values: list[Any]) -> bool:
    """Whether two rows of statistics or names agree up to rounding."""
    if len(found) != len(values) or any(type(a) is not type(b) for a, b in zip(found, values)):
        return False
    if values and isinstance(values[0], str):
        return found == values
    return bool(np.allclose(found, values, rtol=TOLERANCE, atol=TOLERANCE))


def _listed(values: Iterable[str]) -> str:
    return ", ".join(value or "unknown" for value in values)
