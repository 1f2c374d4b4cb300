"""One demonstration: an expert drives the twin and everything a policy would see is kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nac_ros.core.types import Trajectory, TrajectoryPoint
from nac_ros.simulation.expert_motion import ExpertMotion, Kinematics, MotionStyle
from nac_ros.simulation.twin import Twin

_MAX_STEPS = 900  # an expert who has taken longer has lost the thread


@dataclass(frozen=True)
class Demonstration:
    """T frames; frame k was observed at `stamps[k]`, `actions[k]` is due one control period later.

    proprio, actions: float32 `[T, D]`; stamps: float64 `[T]` [s]
    images: camera -> uint8 `[T, H, W, 3]`
    """

    proprio: np.ndarray
    actions: np.ndarray
    images: dict[str, np.ndarray]
    stamps: np.ndarray
    success: bool
    reason: str


def demonstrate(
    twin: Twin, scene_seed: int, rng: np.random.Generator, noise: float = 0.0
) -> Demonstration:
    """Plays one episode; with probability `noise` it begins amid a disturbed approach.

    Only what happens after the disturbance is kept, so every action shown is the expert's own
    and none is the disturbance's.
    """
    twin.reset(scene_seed)
    velocities = np.zeros(twin.spec.action_dim)
    if rng.random() < noise:
        velocities = _disturb(twin, rng)
    return take_over(twin, rng, velocities)


def take_over(twin: Twin, rng: np.random.Generator, velocities: np.ndarray) -> Demonstration:
    """The expert's way from where the twin is to the end, its set-point moving `[D]`."""
    readings, actions = [], []
    for setpoint in expert(twin, rng, velocities):
        readings.append(twin.read())
        actions.append(setpoint)
        advance(twin, setpoint)
        if len(actions) >= _MAX_STEPS or twin.outcome().state == "failure":
            break
    outcome = twin.outcome()
    return Demonstration(
        proprio=np.stack([reading.proprio for reading in readings]).astype(np.float32),
        actions=np.stack(actions).astype(np.float32),
        images={
            name: np.stack([reading.images[name][1] for reading in readings])
            for name in readings[0].images
        },
        stamps=np.array([reading.stamp for reading in readings]),
        success=outcome.state == "success",
        reason=outcome.reason,
    )


def expert(
    twin: Twin, rng: np.random.Generator, velocities: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The task's scripted expert from the present set-point on: `[D]` per control period."""
    return twin.task.expert(twin.data, make_mover(twin, rng, velocities))


def make_mover(
    twin: Twin, rng: np.random.Generator, velocities: np.ndarray | None = None
) -> ExpertMotion:
    """What an expert moves with, from the twin's present set-point on, in a style of its own."""
    start = twin.command()
    moving = np.zeros_like(start) if velocities is None else velocities
    return ExpertMotion(twin.spec, _kinematics(twin.spec), MotionStyle.sample(rng), start, moving)


def advance(twin: Twin, setpoint: np.ndarray) -> None:
    """One control period: the set-point is reached at its end, on a straight line."""
    period = 1 / twin.spec.action_rate_hz
    tick = round(twin.now() / period) + 1
    point = TrajectoryPoint(setpoint, tick * period - twin.now())
    twin.send_trajectory(Trajectory(twin.spec.joint_names, [point]))
    twin.step_until(tick * period)


_kinematics = lru_cache(maxsize=4)(Kinematics)


def _disturb(twin: Twin, rng: np.random.Generator) -> np.ndarray:
    """Lets the expert begin, pushes the arm off its way, and returns the velocity `[D]` left."""
    last = before = twin.command()
    setpoints = expert(twin, rng)
    for _ in range(int(rng.integers(0, twin.task.recoverable_steps))):
        before, last = last, next(setpoints, last)
        advance(twin, last)
    drift = _drift(twin, last, rng)
    steps = int(rng.integers(9, 25))
    low, high = twin.spec.position_low, twin.spec.position_high
    for k in range(steps):
        u = (k + 1) / steps
        share = u**3 * (10 - 15 * u + 6 * u**2)  # minimum jerk
        before, last = last, np.clip(next(setpoints, last) + share * drift, low, high)
        advance(twin, last)
    return (last - before) * twin.spec.action_rate_hz


def _drift(twin: Twin, setpoint: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A displacement `[D]`: up to 0.1 rad per joint, 3 cm of the tool, at times a closing grip."""
    kinematics = _kinematics(twin.spec)
    drift = np.append(rng.uniform(-0.1, 0.1, len(setpoint) - 1), 0.0)
    here = kinematics.tool(setpoint[:-1])
    moved = float(np.linalg.norm(kinematics.tool((setpoint + drift)[:-1]) - here))
    drift *= min(1.0, rng.uniform(0.01, 0.03) / max(moved, 1e-6))
    if rng.random() < 0.4:
        drift[-1] = -rng.uniform(0.2, 1.0) * setpoint[-1]
    return drift
