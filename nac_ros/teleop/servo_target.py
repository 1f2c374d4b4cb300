"""Servo target: set-point of teleoperation; inside all limits, near the arm, able to stop."""

from collections.abc import Iterable

import numpy as np

from nac_ros.control.stopping import MotionState, StopProfile
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec

SHARES = np.array([1.0, 0.5, 0.2, 0.05])  # of the requested speed, tried near a workspace limit
CLEAR_M = 0.005  # distance kept from the limit at which the guard stops the arm
LEASH_S = 0.3  # the target may lead the arm by what full speed covers in this time


class ServoTarget:
    """Position and velocity `[D]` that the arm is commanded to follow.

    speed: share of the velocity limits; acceleration: share of the limits used for braking
    positions, velocities: after the last step
    """

    def __init__(self, spec: RobotSpec, speed: float, acceleration: float):
        self._spec = spec
        self._max_speed = speed * spec.velocity_limit
        self._deceleration = acceleration * spec.acceleration_limit
        self._collision = None if spec.body is None else CollisionModel(spec, spec.body)
        self._leash = LEASH_S * spec.velocity_limit
        self.positions = spec.home.copy()
        self.velocities = np.zeros(spec.action_dim)

    def reset(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Places the target where an arm with this state `[D]` comes to rest."""
        spec = self._spec
        moving = MotionState(positions, velocities, np.zeros_like(positions))
        low, high = StopProfile(moving, spec.acceleration_limit, spec.jerk_limit).position_range
        end = np.where(velocities > 0, high, low)
        self.positions = np.clip(end, spec.position_low, spec.position_high)
        self.velocities = np.zeros_like(positions)

    def velocity_limits(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocities `[D]` from which the target stops inside its limits."""
        spec = self._spec
        below = np.maximum(self.positions - spec.position_low, 0)
        above = np.maximum(spec.position_high - self.positions, 0)
        return -self._stoppable_speed(below, dt), self._stoppable_speed(above, dt)

    def velocities_towards(self, goal: np.ndarray, dt: float, speed: np.ndarray) -> np.ndarray:
        """Velocities `[D]` that reach `goal` `[D]` and stop there; speed: share of full speed."""
        error = goal - self.positions
        size = np.minimum(self._stoppable_speed(np.abs(error), dt), speed * self._max_speed)
        step = self._deceleration * dt
        return np.clip(np.sign(error) * size, self.velocities - step, self.velocities + step)

    def step(
        self, candidates: Iterable[np.ndarray], dt: float, commanded: np.ndarray
    ) -> tuple[str, ...]:
        """Moves the target for `dt` [s]; returns what limited it: workspace, behind.

        Takes the first of the `candidates`, velocities `[D]`, after which the target can stop
        inside the workspace; brakes if there is none. commanded: positions `[D]` of the arm
        """
        limited_by: tuple[str, ...] = ()
        for candidate in candidates:
            velocities, behind = self._within_leash(self._within_limits(candidate, dt), commanded)
            share = self._clear_share(velocities, dt)
            if share < 1:
                limited_by = ("workspace",)
            if share > 0:
                limited_by += ("behind",) if behind else ()
                self.velocities = share * velocities
                break
        else:
            self.velocities = self._braked(dt)
        self.positions = np.clip(
            self.positions + self.velocities * dt,
            self._spec.position_low,
            self._spec.position_high,
        )
        return limited_by

    def predict(self, times: np.ndarray) -> np.ndarray:
        """Positions `[N, D]` at `times` `[N]` [s] from now at constant velocity, at most as far as
        the target moves when it brakes now."""
        time = np.minimum(times, self._stop_time(self.velocities) / 2)[:, None]
        positions = self.positions + time * self.velocities
        return np.clip(positions, self._spec.position_low, self._spec.position_high)

    def _stoppable_speed(self, distance: np.ndarray, dt: float) -> np.ndarray:
        """Speed `[D]` from which the target stops within `distance` `[D]`.

        With deceleration a in steps of dt, a stop from v covers v dt / 2 + v^2 / (2 a). Solved for
        v: sqrt((a dt / 2)^2 + 2 a distance) - a dt / 2. One step must not exceed the distance.
        """
        half_step = self._deceleration * dt / 2
        speed = np.sqrt(half_step**2 + 2 * self._deceleration * distance) - half_step
        return np.minimum(speed, distance / dt)

    def _within_limits(self, velocities: np.ndarray, dt: float) -> np.ndarray:
        """Scales to the speed limits, keeping the direction; stops joints at position limits."""
        ratio = float((np.abs(velocities) / self._max_speed).max())
        return np.clip(velocities / max(ratio, 1.0), *self.velocity_limits(dt))

    def _within_leash(
        self, velocities: np.ndarray, commanded: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """Slows down from half the leash on, to zero at its end; whether it did."""
        lead = (self.positions - commanded) / self._leash
        largest = np.where(lead * velocities > 0, np.abs(lead), 0).max()
        share = float(np.clip(2 * (1 - largest), 0, 1))
        return velocities * share, share < 1

    def _clear_share(self, velocities: np.ndarray, dt: float) -> float:
        """Largest share of `velocities` whose step and following stop stay clear; 0 for none.

        Clear means a penetration depth of at most -CLEAR_M, or no deeper than the arm is now, so
        that it can move out of a violation.
        """
        if self._collision is None:
            return 1.0
        candidates = SHARES[:, None] * velocities  # [S, D]
        after = self.positions + candidates * dt
        stops = after + SHARES[:, None] * candidates * self._stop_time(velocities) / 2
        depths, _ = self._collision.worst_violation(
            np.concatenate([self.positions[None], after, stops])
        )
        allowed = max(float(depths[0]), -CLEAR_M) + 1e-9
        clear = depths[1:].reshape(2, -1).max(0) <= allowed  # [2 S] -> [S]
        return float(SHARES[clear][0]) if clear.any() else 0.0

    def _stop_time(self, velocities: np.ndarray) -> float:
        """Time that all joints need to stop together [s]."""
        return float((np.abs(velocities) / self._deceleration).max())

    def _braked(self, dt: float) -> np.ndarray:
        left = self._stop_time(self.velocities)
        return self.velocities * (1 - dt / left) if left > dt else np.zeros_like(self.velocities)
