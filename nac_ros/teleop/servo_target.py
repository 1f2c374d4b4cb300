"""The set-point that a hand moves: inside every limit, never far from the arm, able to stop."""

from collections.abc import Iterable

import numpy as np

from nac_ros.control.stopping import MotionState, StopProfile
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import RobotSpec

SHARES = np.array([1.0, 0.5, 0.2, 0.05])  # of its speed, for a motion that nears a border
CLEAR_M = 0.005  # how far the arm's parts stay off the border at which the guard holds them back
LEASH_S = 0.3  # as far as the arm goes at full speed in this time the target may be ahead of it


class ServoTarget:
    """Positions and velocities `[D]` of what the arm is asked to follow.

    speed: share of the velocity limits; acceleration: share with which it comes to rest
    positions, velocities: as of the last step
    """

    def __init__(self, spec: RobotSpec, speed: float, acceleration: float):
        self._spec = spec
        self._fastest = speed * spec.velocity_limit
        self._brake = acceleration * spec.acceleration_limit
        self._shape = None if spec.body is None else CollisionModel(spec, spec.body)
        self._leash = LEASH_S * spec.velocity_limit
        self.positions = spec.home.copy()
        self.velocities = np.zeros(spec.action_dim)

    def reset(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Where an arm at `positions` `[D]` comes to rest from `velocities` `[D]`."""
        spec = self._spec
        moving = MotionState(positions, velocities, np.zeros_like(positions))
        low, high = StopProfile(moving, spec.acceleration_limit, spec.jerk_limit).reach
        end = np.where(velocities > 0, high, low)
        self.positions = np.clip(end, spec.position_low, spec.position_high)
        self.velocities = np.zeros_like(positions)

    def velocity_limits(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocities `[D]` from which the target stops before its limits."""
        spec = self._spec
        below = np.maximum(self.positions - spec.position_low, 0)
        above = np.maximum(spec.position_high - self.positions, 0)
        return -self._quickest(below, dt), self._quickest(above, dt)

    def velocities_towards(self, wanted: np.ndarray, dt: float, speed: np.ndarray) -> np.ndarray:
        """Velocities `[D]` that lead to `wanted` `[D]` and come to rest there.

        speed: share of the target's own speed, `[D]`
        """
        off = wanted - self.positions
        quick = np.minimum(self._quickest(np.abs(off), dt), speed * self._fastest)
        change = self._brake * dt
        return np.clip(np.sign(off) * quick, self.velocities - change, self.velocities + change)

    def step(
        self, choices: Iterable[np.ndarray], dt: float, commanded: np.ndarray
    ) -> tuple[str, ...]:
        """Moves for `dt` [s] by the first of `choices`, velocities `[D]`, after which it can still
        stop in the workspace; by none of them it comes to rest. What held it back.

        commanded: where the arm is `[D]`
        """
        why: tuple[str, ...] = ()
        for velocities in choices:
            scaled, behind = self._kept_near(self._scaled(velocities, dt), commanded)
            share = self._clear_share(scaled, dt)
            why += ("workspace",) if share < 1 and not why else ()
            if share > 0:
                why += ("behind",) if behind else ()
                scaled = share * scaled
                break
        else:
            scaled = self._stopping(dt)
        self.positions = np.clip(
            self.positions + scaled * dt, self._spec.position_low, self._spec.position_high
        )
        self.velocities = scaled
        return why

    def predict(self, times: np.ndarray) -> np.ndarray:
        """Positions `[N, D]` at `times` `[N]` [s] from now if it goes on, no farther than it needs
        to stop."""
        run = np.minimum(times, self._stop_s(self.velocities) / 2)[:, None]
        rows = self.positions + run * self.velocities
        return np.clip(rows, self._spec.position_low, self._spec.position_high)

    def _quickest(self, way: np.ndarray, dt: float) -> np.ndarray:
        """Speeds from which a way `[D]` suffices to stop, in steps of `dt` [s]."""
        change = self._brake * dt / 2
        return np.minimum(np.sqrt(change**2 + 2 * self._brake * way) - change, way / dt)

    def _scaled(self, velocities: np.ndarray, dt: float) -> np.ndarray:
        """No joint faster than it may be, the direction kept; joints at a limit stay there."""
        ratio = float((np.abs(velocities) / self._fastest).max())
        return np.clip(velocities / max(ratio, 1.0), *self.velocity_limits(dt))

    def _kept_near(self, velocities: np.ndarray, commanded: np.ndarray) -> tuple[np.ndarray, bool]:
        """Slower the farther the target is ahead of an arm that does not keep up."""
        ahead = (self.positions - commanded) / self._leash
        leading = np.where(ahead * velocities > 0, np.abs(ahead), 0).max()
        share = float(np.clip(2 * (1 - leading), 0, 1))
        return velocities * share, share < 1

    def _clear_share(self, velocities: np.ndarray, dt: float) -> float:
        """At which share of `velocities` a step, and the stop after it, go no deeper than the arm
        is or may be; 0 for none."""
        if self._shape is None:
            return 1.0
        speeds = SHARES[:, None] * velocities
        after = self.positions + speeds * dt
        stops = after + SHARES[:, None] * speeds * self._stop_s(velocities) / 2
        depths, _ = self._shape.worst(np.concatenate([self.positions[None], after, stops]))
        clear = depths[1:].reshape(2, -1).max(0) <= max(float(depths[0]), -CLEAR_M) + 1e-9
        return float(SHARES[clear][0]) if clear.any() else 0.0

    def _stop_s(self, velocities: np.ndarray) -> float:
        """How long all joints together need to come to rest [s]."""
        return float((np.abs(velocities) / self._brake).max())

    def _stopping(self, dt: float) -> np.ndarray:
        left = self._stop_s(self.velocities)
        return self.velocities * (1 - dt / left) if left > dt else np.zeros_like(self.velocities)
