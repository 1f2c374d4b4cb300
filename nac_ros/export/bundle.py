"""A bundle: one folder with all that drives a robot, verified when it is loaded."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import yaml

from nac_ros import config as configs
from nac_ros.errors import BundleError, ConfigError
from nac_ros.export import golden
from nac_ros.export.manifest import Manifest, read_manifest, write_manifest
from nac_ros.export.onnx import OnnxDetokenizer, export_detokenizer
from nac_ros.policies.base import Policy, load_policy
from nac_ros.robot import RobotSpec
from nac_ros.tokenizers import load_tokenizer
from nac_ros.tokenizers.base import Tokenizer

ROBOT, STATISTICS, CARD = "robot.yaml", "statistics.json", "README.md"
DETOKENIZER, GOLDEN = "detokenizer.onnx", "golden.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; `decode` runs ONNX where the tokenizer is a network."""

    path: Path
    manifest: Manifest
    robot: RobotSpec
    policy: Policy
    tokenizer: Tokenizer
    detokenizer: OnnxDetokenizer | None

    @property
    def rate_hz(self) -> float:
        """Control rate that the actions were recorded at."""
        return self.manifest.rate_hz

    @property
    def horizon(self) -> int:
        """T, steps of a chunk."""
        return self.manifest.horizon

    def decode(self, tokens: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Complete sequences int64 `[B, L]`, joint states `[B, D]` -> actions `[B, H, D]`."""
        self.tokenizer.grammar.check(tokens)
        if self.detokenizer is None:
            return self.tokenizer.decode(tokens, reference).numpy()
        return self.detokenizer(tokens, reference)

    def check_robot(self, spec: RobotSpec) -> None:
        """Raises BundleError unless `spec` is the robot this bundle was trained for."""
        for what in ("joint_names", "units", "action_rate_hz"):
            ours, theirs = getattr(self.robot, what), getattr(spec, what)
            if ours != theirs:
                raise BundleError(
                    f"{self.path} was trained for {self.robot.name} with {what} {ours}; robot "
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
    """Writes a complete bundle, loads it once to prove it, and only then puts it in place."""
    folder = Path(folder)
    if folder.exists() and not (folder / "manifest.json").is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something that is no bundle; choose an empty folder")
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
        golden.write(parts.policy, parts.decode, robot, made / GOLDEN)
        write_manifest(made, **facts)
        load_bundle(made)
        copytree(made, folder, dirs_exist_ok=True)
    return folder


def load_bundle(folder: Path | str) -> Bundle:
    """Verifies the hashes, loads every part and runs the golden vectors; raises BundleError."""
    folder = Path(folder)
    bundle = _load_parts(folder, read_manifest(folder))
    if GOLDEN not in bundle.manifest.files:
        raise BundleError(f"{folder} has no golden vectors ({GOLDEN}); export it again")
    golden.verify(bundle.policy, bundle.decode, folder / GOLDEN)
    return bundle


def _write_parts(
    folder: Path, policy: Policy, tokenizer: Tokenizer, robot: RobotSpec, card: str
) -> None:
    policy.save_pretrained(folder / "policy", half=True)
    tokenizer.save_pretrained(folder / "tokenizer", half=True)
    tokenizer = load_tokenizer(folder / "tokenizer")  # rounded as every user will have it
    if hasattr(tokenizer, "detokenize"):
        export_detokenizer(tokenizer, folder / DETOKENIZER)
    (folder / ROBOT).write_text(yaml.safe_dump(configs.to_plain(robot), sort_keys=False))
    statistics = {
        "names": list(robot.joint_names),
        "units": list(robot.units),
        "action_min": tokenizer.absolute.low.tolist(),
        "action_max": tokenizer.absolute.high.tolist(),
        "state_mean": policy.state_mean.tolist(),
        "state_std": policy.state_std.tolist(),
    }
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n")
    (folder / CARD).write_text(card)


def _load_parts(folder: Path, manifest: Manifest) -> Bundle:
    tokenizer = load_tokenizer(folder / "tokenizer")
    onnx = folder / DETOKENIZER
    return Bundle(
        path=folder,
        manifest=manifest,
        robot=configs.build(RobotSpec, configs.load_yaml(folder / ROBOT), str(folder / ROBOT)),
        policy=load_policy(folder / "policy", tokenizer),
        tokenizer=tokenizer,
        detokenizer=OnnxDetokenizer(onnx) if DETOKENIZER in manifest.files else None,
    )


def _check_fit(policy: Policy, tokenizer: Tokenizer, robot: RobotSpec) -> None:
    dims = (tokenizer.config.action_dim, policy.config.state_dim)
    if dims != (robot.action_dim, robot.action_dim):
        raise ConfigError(
            f"tokenizer and policy have {dims[0]} and {dims[1]} dimensions; robot {robot.name} "
            f"has {robot.action_dim} joints"
        )
    if policy.config.n_action_steps > tokenizer.config.horizon:
        raise ConfigError(
            f"n_action_steps {policy.config.n_action_steps} is beyond the horizon "
            f"{tokenizer.config.horizon}"
        )
