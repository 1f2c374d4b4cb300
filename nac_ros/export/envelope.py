"""What a codec was seen to output at worst, beside the robot's limits, stored with the codec."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nac_ros import config as configs
from nac_ros.errors import ConfigError
from nac_ros.export.extremes import GAIN, QUANTITIES, Extremes
from nac_ros.export.manifest import MANIFEST, add_file, put, read_manifest, sha256
from nac_ros.robot import RobotSpec
from nac_ros.tokenizers.base import Tokenizer
from nac_ros.tokenizers.grammar import PAD
from nac_ros.tokenizers.making import load_tokenizer, tokenizer_folder
from nac_ros.tokenizers.storage import WEIGHTS_FILE

ENVELOPE = "envelope.json"
MEANING = "a lower bound of the worst case: the guard stays the only bound"
SAMPLES = 4096
SEARCHED = 6  # sequences that the search may decode, for each one sampled

Report = Callable[[int, int], None]  # sequences decoded so far, and at most


@dataclass(frozen=True)
class Worst:
    """The largest value seen of one quantity of a joint, and the tokens that decode to it.

    value, limit: in the joint's unit, per s or s^2; ratio: value / limit
    found: by "sampling" or "search"; sampled: the largest value of sampling alone
    """

    value: float
    limit: float
    ratio: float
    found: str
    sampled: float
    tokens: tuple[int, ...]
    reference: tuple[float, ...]


@dataclass(frozen=True)
class JointEnvelope:
    """The worst of one joint.

    relative: whether positions are offsets from the reference, which may be anywhere
    lowest, highest: positions or offsets; beyond_from_home: how far they lie outside the robot's
        limits, relative ones counted from home
    position: relative, the largest offset beside the whole range of the limits, more than which
        leaves them from anywhere; absolute, from the middle of the limits beside half their range
    velocity, acceleration: finite differences within a chunk at its rate
    first_step: velocity from the reference, a plausible one for absolute joints, to a first action
    """

    name: str
    unit: str
    relative: bool
    lowest: float
    highest: float
    beyond_from_home: float
    position: Worst
    velocity: Worst
    acceleration: Worst
    first_step: Worst


@dataclass(frozen=True)
class Envelope:
    """Every joint's worst; decoded: sequences of which `samples` were random; meaning: read it."""

    meaning: str
    tokenizer: str
    preset: str
    robot: str
    rate_hz: float
    horizon: int
    seed: int
    samples: int
    decoded: int
    joints: tuple[JointEnvelope, ...]


def write_envelope(
    folder: Path | str,
    robot: RobotSpec,
    samples: int = SAMPLES,
    seed: int = 0,
    report: Report = lambda done, most: None,
) -> dict[str, Any]:
    """Measures the codec of a tokenizer folder or bundle and puts `envelope.json` at its root.

    The figures, with the hash of the weights that they are of; a bundle's manifest covers them.
    """
    folder = Path(folder)
    is_bundle = (folder / MANIFEST).is_file()
    if is_bundle:
        read_manifest(folder)  # what was altered is refused before the long part
    tokenizer = load_tokenizer(folder)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} is read-only; envelope.json belongs there: copy it first")
    figures = configs.to_plain(measure(tokenizer, robot, samples, seed, report))
    figures["weights_sha256"] = sha256(tokenizer_folder(folder) / WEIGHTS_FILE)
    text = json.dumps(figures, indent=1) + "\n"
    if is_bundle:
        add_file(folder, ENVELOPE, text)
    else:
        put(folder / ENVELOPE, text)
    return figures


def measure(
    tokenizer: Tokenizer,
    robot: RobotSpec,
    samples: int = SAMPLES,
    seed: int = 0,
    report: Report = lambda done, most: None,
) -> Envelope:
    """Samples, then searches; raises ConfigError when codec and robot do not fit."""
    _check_fit(tokenizer, robot, samples)
    generator, most = np.random.default_rng(seed), samples * (1 + SEARCHED)
    extremes = Extremes(tokenizer, robot)
    extremes.sample(samples, generator, lambda done: report(done, most))
    sampled = extremes.values.copy()
    extremes.search(samples * SEARCHED, generator, lambda done: report(done, most))
    report(most, most)
    return Envelope(
        meaning=MEANING,
        tokenizer=tokenizer.name,
        preset=tokenizer.preset,
        robot=robot.name,
        rate_hz=tokenizer.config.rate_hz,
        horizon=tokenizer.config.horizon,
        seed=seed,
        samples=samples,
        decoded=extremes.decoded,
        joints=tuple(_joint(extremes, sampled, robot, j) for j in range(robot.action_dim)),
    )


def _joint(extremes: Extremes, sampled: np.ndarray, robot: RobotSpec, j: int) -> JointEnvelope:
    joint, relative = robot.joints[j], bool(extremes.relative[j])
    (low, high), below, above = joint.position, *extremes.values[j :: robot.action_dim][:2]
    start, home = (0.0, joint.home) if relative else ((low + high) / 2, 0.0)
    lowest, highest = float(start - below), float(start + above)

    def worst(limit: float, *names: str) -> Worst:
        places = [QUANTITIES.index(name) * robot.action_dim + j for name in names]
        return _worst(extremes, sampled, places, limit)

    return JointEnvelope(
        name=joint.name,
        unit=joint.unit,
        relative=relative,
        lowest=lowest,
        highest=highest,
        beyond_from_home=max(0.0, low - home - lowest, home + highest - high),
        position=worst((high - low) / (1 if relative else 2), "lowest", "highest"),
        velocity=worst(joint.velocity, "velocity"),
        acceleration=worst(joint.acceleration, "acceleration"),
        first_step=worst(joint.velocity, "first_step"),
    )


def _worst(extremes: Extremes, sampled: np.ndarray, places: list[int], limit: float) -> Worst:
    k = max(places, key=lambda place: extremes.values[place])
    value, before = float(extremes.values[k]), float(sampled[places].max())
    return Worst(
        value=value,
        limit=limit,
        ratio=value / limit,
        found="search" if value > before + GAIN * abs(before) else "sampling",
        sampled=before,
        tokens=tuple(int(token) for token in extremes.tokens[k] if token != PAD),
        reference=tuple(float(position) for position in extremes.references[k]),
    )


def _check_fit(tokenizer: Tokenizer, robot: RobotSpec, samples: int) -> None:
    config, dim = tokenizer.config, robot.action_dim
    if config.action_dim != dim:
        raise ConfigError(
            f"the tokenizer's actions have {config.action_dim} dimensions; robot {robot.name} has "
            f"{dim} joints: {', '.join(robot.joint_names)}"
        )
    for what, ours, theirs in (
        ("names", config.names, robot.joint_names),
        ("units", config.units, robot.units),
    ):
        if ours and ours != theirs:
            raise ConfigError(
                f"the tokenizer's {what} are {', '.join(ours)}; robot {robot.name} has "
                f"{', '.join(theirs)}"
            )
    if config.rate_hz <= 0:
        raise ConfigError(
            "the tokenizer does not know its control rate, and velocities need it: train it with "
            "`--model rate_hz=30`, or make it with make_tokenizer(..., rate_hz=30)"
        )
    if config.horizon < 3 or samples < 1:
        raise ConfigError(
            f"an acceleration needs 3 steps and a sequence; the horizon is {config.horizon}, "
            f"samples {samples}"
        )
