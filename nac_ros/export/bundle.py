"""Bundles: one folder with policy, tokenizer and robot description, verified when loaded."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import yaml

from nac_ros.core import config as configs
from nac_ros.core.errors import BundleError, ConfigError, NacError, show_text
from nac_ros.core.json_reader import read_bytes, read_json
from nac_ros.datasets.compatibility import same_rate
from nac_ros.export import golden_vectors
from nac_ros.export.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from nac_ros.export.onnx import OnnxDetokenizer, export_detokenizer
from nac_ros.policies.base import Policy, load_policy
from nac_ros.robot.spec import RobotSpec, list_robots, load_robot
from nac_ros.tokenizers import load_tokenizer
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.serialization import CONFIG_FILE, WEIGHTS_FILE

ROBOT, STATISTICS, CARD = "robot.yaml", "statistics.json", "README.md"
DETOKENIZER, GOLDEN = "detokenizer.onnx", "golden.safetensors"
REQUIRED = (
    *(
        f"{part}/{file}"
        for part in ("policy", "tokenizer")
        for file in (CONFIG_FILE, WEIGHTS_FILE)
    ),
    ROBOT,
    STATISTICS,
    GOLDEN,
)
MAX_ROBOT_BYTES = 256 << 10  # of robot.yaml
LIMITS = ("velocity", "acceleration", "jerk")
TOLERANCE = 1e-6  # relative; rounding of limits in YAML and of statistics in float32


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; `decode` uses ONNX Runtime if the tokenizer is a network."""

    path: Path
    manifest: Manifest
    robot: RobotSpec
    policy: Policy
    tokenizer: Tokenizer
    detokenizer: OnnxDetokenizer | None

    @property
    def rate_hz(self) -> float:
        """Control rate of the actions [Hz]."""
        return self.manifest.rate_hz

    @property
    def horizon(self) -> int:
        """Steps of a chunk."""
        return self.manifest.horizon

    def decode(self, tokens: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Complete sequences int64 `[B, L]`, joint states `[B, D]` -> actions `[B, H, D]`."""
        self.tokenizer.grammar.check(tokens)
        if self.detokenizer is None:
            return self.tokenizer.decode(tokens, reference).numpy()
        actions = self.detokenizer(tokens, reference)
        wanted = (len(tokens), self.horizon, self.robot.action_dim)
        if actions.shape != wanted:
            raise BundleError(
                f"{self.path / DETOKENIZER} decodes to {actions.shape}, wanted {wanted}; export "
                "the bundle again"
            )
        return actions

    def check_robot(self, spec: RobotSpec) -> None:
        """Raises BundleError unless `spec` has the joints, units, rate and cameras of training."""
        for field in ("joint_names", "units", "action_rate_hz"):
            ours, theirs = getattr(self.robot, field), getattr(spec, field)
            if ours != theirs:
                raise BundleError(
                    f"{self.path} was trained for {self.robot.name} with {field} {ours}; robot "
                    f"{spec.name} has {theirs}"
                )
        for name in self.policy.config.cameras:
            ours, theirs = self.robot.camera(name), spec.camera(name)
            if (ours.height, ours.width) != (theirs.height, theirs.width):
                raise BundleError(
                    f"{self.path} was trained on {ours.width}x{ours.height} images of camera "
                    f"'{name}'; robot {spec.name} sends {theirs.width}x{theirs.height}"
                )


def write_bundle(
    folder: Path | str,
    policy: Policy,
    tokenizer: Tokenizer,
    robot: RobotSpec,
    created_by: dict[str, Any],
    card: str,
) -> Path:
    """Writes a complete bundle into a temporary folder, verifies it by loading it, and copies it
    to `folder`. Raises ConfigError if the parts do not fit together."""
    folder = Path(folder)
    if folder.exists() and not (folder / "manifest.json").is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds files and is no bundle; choose an empty folder")
    _check_fit(policy, tokenizer, robot)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "bundle"
        _write_parts(made, policy, tokenizer, robot, card)
        facts = {
            "robot": robot.name,
            "tasks": dict(policy.config.tasks),
            "rate_hz": robot.action_rate_hz,
            "horizon": tokenizer.config.horizon,
            "created_by": created_by,
        }
        write_manifest(made, **facts)
        parts = _load_parts(made, read_manifest(made))
        golden_vectors.write(parts.policy, parts.decode, robot, made / GOLDEN)
        write_manifest(made, **facts)
        load_bundle(made)
        copytree(made, folder, dirs_exist_ok=True)
    return folder


def load_bundle(folder: Path | str) -> Bundle:
    """Verifies the hashes, loads every part and verifies the golden vectors.

    Raises BundleError for a missing, altered or damaged file, for parts that contradict one
    another, and for a robot whose limits are wider than those in config/robots.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    _require_files(folder, manifest, REQUIRED)
    bundle = _load_parts(folder, manifest)
    if hasattr(bundle.tokenizer, "detokenize"):
        _require_files(folder, manifest, (DETOKENIZER,))
    _check_parts(bundle)
    _check_statistics(bundle)
    _check_limits(bundle)
    golden_vectors.verify(bundle.policy, bundle.decode, folder / GOLDEN)
    return bundle


def _write_parts(
    folder: Path, policy: Policy, tokenizer: Tokenizer, robot: RobotSpec, card: str
) -> None:
    policy.save_pretrained(folder / "policy", half=True)
    tokenizer.save_pretrained(folder / "tokenizer", half=True)
    tokenizer = load_tokenizer(folder / "tokenizer")  # rounded to float16 like the saved one
    if hasattr(tokenizer, "detokenize"):
        export_detokenizer(tokenizer, folder / DETOKENIZER)
    (folder / ROBOT).write_text(yaml.safe_dump(configs.to_plain(robot), sort_keys=False))
    statistics = _statistics(policy, tokenizer, robot)
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n")
    (folder / CARD).write_text(card)


def _statistics(policy: Policy, tokenizer: Tokenizer, robot: RobotSpec) -> dict[str, list[Any]]:
    return {
        "names": list(robot.joint_names),
        "units": list(robot.units),
        "action_min": tokenizer.absolute_normalizer.low.tolist(),
        "action_max": tokenizer.absolute_normalizer.high.tolist(),
        "state_mean": policy.state_mean.tolist(),
        "state_std": policy.state_std.tolist(),
    }


def _load_parts(folder: Path, manifest: Manifest) -> Bundle:
    tokenizer = load_tokenizer(folder / "tokenizer")
    onnx = folder / DETOKENIZER
    return Bundle(
        path=folder,
        manifest=manifest,
        robot=_load_robot(folder / ROBOT),
        policy=load_policy(folder / "policy", tokenizer),
        tokenizer=tokenizer,
        detokenizer=OnnxDetokenizer(onnx) if DETOKENIZER in manifest.files else None,
    )


def _load_robot(path: Path) -> RobotSpec:
    """robot.yaml, checked like every robot description; raises BundleError."""
    read_bytes(path, BundleError, MAX_ROBOT_BYTES)
    try:
        return configs.build(RobotSpec, configs.load_yaml(path), str(path))
    except (NacError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is no valid robot file: {show_text(error, 400)}; export the bundle again"
        ) from error


def _require_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raises BundleError unless the manifest lists `names`: only listed files are verified."""
    for name in names:
        if name not in manifest.files:
            raise BundleError(
                f"{folder}: {MANIFEST} does not list {name}, which every bundle needs; export it "
                "again"
            )


def _check_parts(bundle: Bundle) -> None:
    """Raises BundleError if manifest, robot, tokenizer and policy contradict one another."""
    manifest, robot = bundle.manifest, bundle.robot
    codec_file, policy_file = f"tokenizer/{CONFIG_FILE}", f"policy/{CONFIG_FILE}"
    for field, ours, other, theirs in (
        ("robot", manifest.robot, ROBOT, robot.name),
        ("tasks", manifest.tasks, policy_file, bundle.policy.config.tasks),
        ("rate_hz", manifest.rate_hz, ROBOT, robot.action_rate_hz),
        ("horizon", manifest.horizon, codec_file, bundle.tokenizer.config.horizon),
    ):
        if ours != theirs:
            raise BundleError(
                f"{bundle.path}: {field} is {show_text(ours)} in {MANIFEST} and "
                f"{show_text(theirs)} in {other}; export the bundle again"
            )
    try:
        _check_fit(bundle.policy, bundle.tokenizer, robot)
    except ConfigError as error:
        raise BundleError(
            f"{bundle.path}: {show_text(error, 400)}; then export the bundle again"
        ) from error


def _check_statistics(bundle: Bundle) -> None:
    """Raises BundleError if statistics.json differs from the statistics of the networks."""
    path = bundle.path / STATISTICS
    stored = read_json(path, BundleError)
    for key, values in _statistics(bundle.policy, bundle.tokenizer, bundle.robot).items():
        found = stored.get(key) if isinstance(stored, dict) else None
        if not isinstance(found, list) or not _equal(found, values):
            raise BundleError(
                f"{path}: {key} is {show_text(found)}, the networks have {show_text(values)}; "
                "export the bundle again"
            )


def _equal(found: list[Any], values: list[Any]) -> bool:
    if len(found) != len(values) or any(type(a) is not type(b) for a, b in zip(found, values)):
        return False
    if values and isinstance(values[0], str):
        return found == values
    return bool(np.allclose(found, values, rtol=TOLERANCE, atol=TOLERANCE))


def _check_limits(bundle: Bundle) -> None:
    """Raises BundleError if config/robots has a robot of that name with narrower limits.

    The guard uses the limits of the robot's own file. A bundle must not state wider ones, which
    other programs might use.
    """
    robot = bundle.robot
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
                f"{bundle.path / ROBOT}: joint {joint.name} has {', '.join(wider)}, wider than "
                f"robot {robot.name} allows in config/robots; correct the wrong one and export "
                "the bundle again"
            )


def check_columns(tokenizer: Tokenizer, robot: RobotSpec) -> None:
    """Raises ConfigError unless names and units of the tokenizer's columns, if known, are those of
    the robot's joints."""
    config = tokenizer.config
    for field, ours, theirs in (
        ("names", config.names, robot.joint_names),
        ("units", config.units, robot.units),
    ):
        if ours and ours != theirs:
            raise ConfigError(
                f"the tokenizer's {field} are {_listed(ours)}, those of robot {robot.name} "
                f"{_listed(theirs)}; use the robot of the data, or train the tokenizer with "
                f"--robot {robot.name} on data that has its {field}"
            )


def _check_fit(policy: Policy, tokenizer: Tokenizer, robot: RobotSpec) -> None:
    """Raises ConfigError if policy, tokenizer and robot do not fit together."""
    codec = tokenizer.config
    dims = (codec.action_dim, policy.config.state_dim)
    if dims != (robot.action_dim, robot.action_dim):
        raise ConfigError(
            f"tokenizer and policy have {dims[0]} and {dims[1]} dimensions, robot {robot.name} "
            f"has {robot.action_dim} joints; train both for this robot"
        )
    check_columns(tokenizer, robot)
    if codec.rate_hz and not same_rate(codec.rate_hz, robot.action_rate_hz):
        raise ConfigError(
            f"the tokenizer was fitted to data at {codec.rate_hz:.10g} Hz, and robot {robot.name} "
            f"has action_rate_hz {robot.action_rate_hz:.10g}; train on data of that rate, or "
            "correct the robot's YAML"
        )
    known = [camera.name for camera in robot.cameras]
    if missing := [name for name in policy.config.cameras if name not in known]:
        raise ConfigError(
            f"the policy uses camera '{missing[0]}', robot {robot.name} has: "
            f"{', '.join(known) or 'none'}; add it to the robot's YAML, or train with --cameras"
        )
    if policy.config.n_action_steps > codec.horizon:
        raise ConfigError(
            f"n_action_steps {policy.config.n_action_steps} is beyond the horizon "
            f"{codec.horizon}; train with fewer"
        )


def _listed(values: Iterable[str]) -> str:
    return ", ".join(value or "unknown" for value in values)
