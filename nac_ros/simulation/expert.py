"""Scripted demonstrations: an expert drives the twin, and what a policy would observe is kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nac_ros.core.types import Trajectory, TrajectoryPoint
from nac_ros.simulation.expert_motion import ExpertMotion, Kinematics, MotionStyle
from nac_ros.simulation.twin import Twin

_MAX_STEPS = 900  # control periods of a demonstration; a longer one has failed


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
    twin: Twin, scene_seed: int, rng: np.random.Generator, disturbed_share: float = 0.0
) -> Demonstration:
    """Plays one episode, with probability `disturbed_share` after a disturbed start.

    A disturbance is not recorded: the frames begin after it and show how the expert recovers.
    """
    twin.reset(scene_seed)
    velocities = np.zeros(twin.spec.action_dim)
    if rng.random() < disturbed_share:
        velocities = _disturb(twin, rng)
    return record_expert(twin, rng, velocities)


def record_expert(twin: Twin, rng: np.random.Generator, velocities: np.ndarray) -> Demonstration:
    """The expert from the present state of the twin to the end of the trial.

    velocities: `[D]`, of the set-point now [rad/s, m/s]
    """
    readings, actions = [], []
    for setpoint in expert_setpoints(twin, rng, velocities):
        readings.append(twin.read())
        actions.append(setpoint)
        step_to_setpoint(twin, setpoint)
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


def expert_setpoints(
    twin: Twin, rng: np.random.Generator, velocities: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Set-points `[D]` of the task's scripted expert from now on, one per control period."""
    return twin.task.expert_setpoints(make_expert_motion(twin, rng, velocities))


def make_expert_motion(
    twin: Twin, rng: np.random.Generator, velocities: np.ndarray | None = None
) -> ExpertMotion:
    """An ExpertMotion with a random style that starts at the twin's present set-point."""
    start = twin.setpoint()
    if velocities is None:
        velocities = np.zeros_like(start)
    kinematics, style = _kinematics(twin.spec), MotionStyle.sample(rng)
    return ExpertMotion(twin.spec, kinematics, style, start, velocities)


def step_to_setpoint(twin: Twin, setpoint: np.ndarray) -> None:
    """One control period, at whose end the controller reaches `setpoint` `[D]` in a line."""
    period = 1 / twin.spec.action_rate_hz
    end = (round(twin.now() / period) + 1) * period
    point = TrajectoryPoint(setpoint, end - twin.now())
    twin.send_trajectory(Trajectory(twin.spec.joint_names, [point]))
    twin.step_until(end)


_kinematics = lru_cache(maxsize=4)(Kinematics)


def _disturb(twin: Twin, rng: np.random.Generator) -> np.ndarray:
    """Starts the expert and pushes the arm off its path; returns the velocity `[D]` at the end."""
    last = before = twin.setpoint()
    setpoints = expert_setpoints(twin, rng)
    for _ in range(int(rng.integers(0, twin.task.recoverable_steps))):
        before, last = last, next(setpoints, last)
        step_to_setpoint(twin, last)
    push = _sample_push(twin, last, rng)
    steps = int(rng.integers(9, 25))
    low, high = twin.spec.position_low, twin.spec.position_high
    for k in range(steps):
        u = (k + 1) / steps
        share = u**3 * (10 - 15 * u + 6 * u**2)  # minimum-jerk profile
        before, last = last, np.clip(next(setpoints, last) + share * push, low, high)
        step_to_setpoint(twin, last)
    return (last - before) * twin.spec.action_rate_hz


def _sample_push(twin: Twin, setpoint: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A displacement `[D]`: at most 0.1 rad per joint and 3 cm at the tool; in 40 % of the draws
    the gripper closes as well."""
    kinematics = _kinematics(twin.spec)
    push = np.append(rng.uniform(-0.1, 0.1, len(setpoint) - 1), 0.0)
    here = kinematics.tool_position(setpoint[:-1])
    moved = float(np.linalg.norm(kinematics.tool_position((setpoint + push)[:-1]) - here))
    push *= min(1.0, rng.uniform(0.01, 0.03) / max(moved, 1e-6))
    if rng.random() < 0.4:
        push[-1] = -rng.uniform(0.2, 1.0) * setpoint[-1]
    return push
