"""Bundles: one folder with a policy, its tokenizer if it has one, and the robot description.

A bundle is verified when it is loaded.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from nac_ros.core import config as configs
from nac_ros.core.device import CPU, ComputeDevice
from nac_ros.core.errors import BundleError, ConfigError, show_text
from nac_ros.core.json_reader import read_json
from nac_ros.datasets.compatibility import same_rate
from nac_ros.export import golden_vectors
from nac_ros.export.bundle_files import (
    CARD,
    DETOKENIZER,
    GOLDEN,
    ROBOT,
    STATISTICS,
    check_columns,
    check_limits,
    is_equal,
    load_bundle_robot,
    require_files,
)
from nac_ros.export.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from nac_ros.export.onnx import export_detokenizer
from nac_ros.export.onnx_policy import export_policy
from nac_ros.export.onnx_session import OnnxDetokenizer
from nac_ros.policies.base import Policy, PolicyOutput, load_policy, takes_tokenizer
from nac_ros.robot.spec import RobotSpec
from nac_ros.tokenizers import load_tokenizer
from nac_ros.tokenizers.base import CodebookTokenizer, Tokenizer
from nac_ros.tokenizers.serialization import CONFIG_FILE, WEIGHTS_FILE

MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE)  # of a policy or tokenizer
REQUIRED = (*(f"policy/{file}" for file in MODEL_FILES), ROBOT, STATISTICS, GOLDEN)
OF_TOKENIZER = tuple(f"tokenizer/{file}" for file in MODEL_FILES)  # if the policy has one


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    detokenizer: ONNX decoder of the policy's tokens, which `policy.predict` uses; None if the
        tokenizer is no network, or there is none
    device: of the policy
    """

    path: Path
    manifest: Manifest
    robot: RobotSpec
    policy: Policy
    detokenizer: OnnxDetokenizer | None
    device: ComputeDevice

    @property
    def rate_hz(self) -> float:
        """Control rate of the actions [Hz]."""
        return self.manifest.rate_hz

    @property
    def horizon(self) -> int:
        """Steps of a chunk."""
        return self.manifest.horizon

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Of the policy; None if it predicts no tokens."""
        return getattr(self.policy, "tokenizer", None)

    @property
    def decode_s(self) -> float:
        """Duration of the latest decoding by ONNX Runtime [s]; 0 without detokenizer."""
        return 0.0 if self.detokenizer is None else self.detokenizer.duration_s

    def to_actions(self, output: PolicyOutput, reference: np.ndarray) -> np.ndarray:
        """Predicted chunks, joint states `[B, D]` -> float32 actions `[B, H, D]` [rad or m]."""
        states = torch.from_numpy(np.asarray(reference, np.float32)).to(output.chunk.device)
        actions = self.policy.normalizer.denormalize(output.chunk.float(), states)
        return actions.cpu().numpy()


def write_bundle(
    folder: Path | str,
    policy: Policy,
    robot: RobotSpec,
    created_by: dict[str, Any],
    card: str,
    with_onnx: bool = False,
    check: Callable[[Path], Any] | None = None,
) -> Path:
    """Writes a complete bundle into a temporary folder, verifies it by loading it, and copies it
    to `folder`.

    with_onnx: also export the whole policy to ONNX, for nac_ros.inference.onnx_runtime
    check: called with the complete bundle before it is copied

    Raises ConfigError if the parts do not fit together, or the policy has no ONNX export.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "manifest.json").is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds files and is no bundle; choose an empty folder")
    _check_fit(policy, robot)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "bundle"
        _write_parts(made, policy, robot, card)
        facts = {
            "robot": robot.name,
            "tasks": dict(policy.config.tasks),
            "rate_hz": robot.action_rate_hz,
            "horizon": policy.chunk_spec.horizon,
            "created_by": created_by,
        }
        write_manifest(made, **facts)
        parts = _load_parts(made, read_manifest(made), CPU)
        if with_onnx:
            export_policy(parts.policy, made)
        golden_vectors.write(parts.policy, parts.to_actions, robot, made / GOLDEN)
        write_manifest(made, **facts)
        load_bundle(made)
        if check is not None:
            check(made)
        copytree(made, folder, dirs_exist_ok=True)
    return folder


def load_bundle(folder: Path | str, device: ComputeDevice = CPU) -> Bundle:
    """Verifies the hashes, loads every part, moves the policy to a device and verifies the golden
    vectors there, in float32.

    Raises BundleError for a missing, altered or damaged file, for parts that contradict one
    another, and for a robot whose limits are wider than those in config/robots.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    require_files(folder, manifest, REQUIRED)
    bundle = _load_parts(folder, manifest, device)
    _check_parts(bundle)
    _check_statistics(bundle)
    check_limits(bundle.robot, folder)
    golden_vectors.verify(bundle.policy, bundle.to_actions, folder / GOLDEN)
    return bundle


def _write_parts(folder: Path, policy: Policy, robot: RobotSpec, card: str) -> None:
    policy.save_pretrained(folder / "policy", half=True)
    tokenizer = getattr(policy, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "tokenizer", half=True)
        tokenizer = load_tokenizer(folder / "tokenizer")  # rounded to float16 like the saved one
        if isinstance(tokenizer, CodebookTokenizer):
            export_detokenizer(tokenizer, folder / DETOKENIZER)
    (folder / ROBOT).write_text(yaml.safe_dump(configs.to_plain(robot), sort_keys=False))
    statistics = _statistics(policy, robot)
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n")
    (folder / CARD).write_text(card)


def _statistics(policy: Policy, robot: RobotSpec) -> dict[str, list[Any]]:
    return {
        "names": list(robot.joint_names),
        "units": list(robot.units),
        "action_min": policy.absolute_normalizer.low.tolist(),
        "action_max": policy.absolute_normalizer.high.tolist(),
        "state_mean": policy.state_mean.tolist(),
        "state_std": policy.state_std.tolist(),
    }


def _load_parts(folder: Path, manifest: Manifest, device: ComputeDevice) -> Bundle:
    """Every part of a bundle whose manifest was verified; the policy decodes with ONNX Runtime."""
    tokenizer, detokenizer = None, None
    if takes_tokenizer(folder / "policy"):
        require_files(folder, manifest, OF_TOKENIZER)
        tokenizer = load_tokenizer(folder / "tokenizer")
    policy = load_policy(folder / "policy", tokenizer).to(device.name)
    if isinstance(tokenizer, CodebookTokenizer):
        require_files(folder, manifest, (DETOKENIZER,))
        providers = device.onnx_providers, device.providers_required, device.index
        detokenizer = OnnxDetokenizer(folder / DETOKENIZER, 1, *providers)
        policy.decoder = NormalizedDecoder(detokenizer, policy)
    robot = load_bundle_robot(folder / ROBOT)
    return Bundle(folder, manifest, robot, policy, detokenizer, device)


class NormalizedDecoder:
    """Tokens int64 `[B, L]` -> normalized chunks float32 `[B, H, D]`, by ONNX Runtime."""

    def __init__(self, detokenizer: OnnxDetokenizer, policy: Policy):
        self._detokenizer, self._tokenizer = detokenizer, policy.tokenizer
        self._shape = (policy.chunk_spec.horizon, policy.chunk_spec.action_dim)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Raises BadTokens for tokens that are no complete sequences, BundleError if the ONNX file
        decodes to another shape."""
        codes = tokens.cpu().numpy()
        self._tokenizer.grammar.check(codes)
        reference = np.zeros((len(codes), self._shape[1]), np.float32)
        actions = self._detokenizer(codes, reference)
        if actions.shape != (wanted := (len(codes), *self._shape)):
            raise BundleError(
                f"{self._detokenizer.path} decodes to {actions.shape}, wanted {wanted}; export "
                "the bundle again"
            )
        chunk = torch.from_numpy(actions).to(tokens.device)
        return self._tokenizer.normalizer.normalize(chunk, torch.zeros_like(chunk[:, 0]))


def _check_parts(bundle: Bundle) -> None:
    """Raises BundleError if manifest, robot and policy contradict one another."""
    manifest, robot, policy_file = bundle.manifest, bundle.robot, f"policy/{CONFIG_FILE}"
    has_tokenizer = bundle.policy.takes_tokenizer
    chunk_file = f"tokenizer/{CONFIG_FILE}" if has_tokenizer else policy_file
    for field, ours, other, theirs in (
        ("robot", manifest.robot, ROBOT, robot.name),
        ("tasks", manifest.tasks, policy_file, bundle.policy.config.tasks),
        ("rate_hz", manifest.rate_hz, ROBOT, robot.action_rate_hz),
        ("horizon", manifest.horizon, chunk_file, bundle.policy.chunk_spec.horizon),
    ):
        if ours != theirs:
            raise BundleError(
                f"{bundle.path}: {field} is {show_text(ours)} in {MANIFEST} and "
                f"{show_text(theirs)} in {other}; export the bundle again"
            )
    try:
        _check_fit(bundle.policy, robot)
    except ConfigError as error:
        raise BundleError(
            f"{bundle.path}: {show_text(error, 400)}; then export the bundle again"
        ) from error


def _check_statistics(bundle: Bundle) -> None:
    """Raises BundleError if statistics.json differs from the statistics of the networks."""
    path = bundle.path / STATISTICS
    stored = read_json(path, BundleError)
    for key, values in _statistics(bundle.policy, bundle.robot).items():
        found = stored.get(key) if isinstance(stored, dict) else None
        if not isinstance(found, list) or not is_equal(found, values):
            raise BundleError(
                f"{path}: {key} is {show_text(found)}, the networks have {show_text(values)}; "
                "export the bundle again"
            )


def _check_fit(policy: Policy, robot: RobotSpec) -> None:
    """Raises ConfigError if policy and robot do not fit together."""
    spec, config = policy.chunk_spec, policy.config
    dims = (spec.action_dim, config.state_dim)
    if dims != (robot.action_dim, robot.action_dim):
        raise ConfigError(
            f"actions and joint states of the policy have {dims[0]} and {dims[1]} dimensions, "
            f"robot {robot.name} has {robot.action_dim} joints; train for this robot"
        )
    check_columns(spec, robot)
    if spec.rate_hz and not same_rate(spec.rate_hz, robot.action_rate_hz):
        raise ConfigError(
            f"the chunks were fitted to data at {spec.rate_hz:.10g} Hz, and robot {robot.name} "
            f"has action_rate_hz {robot.action_rate_hz:.10g}; train on data of that rate, or "
            "correct the robot's YAML"
        )
    known = [camera.name for camera in robot.cameras]
    if missing := [name for name in config.cameras if name not in known]:
        raise ConfigError(
            f"the policy uses camera '{missing[0]}', robot {robot.name} has: "
            f"{', '.join(known) or 'none'}; add it to the robot's YAML, or train with --cameras"
        )
    if config.n_action_steps > spec.horizon:
        raise ConfigError(
            f"n_action_steps {config.n_action_steps} is beyond the horizon "
            f"{spec.horizon}; train with fewer"
        )
