"""Watchdog: age of the newest joint state and of the policy's heartbeat."""

import numpy as np

from nac_ros.control.checks import CLOCK_SKEW_S, Rejection
from nac_ros.robot.spec import RobotSpec


class Watchdog:
    """Keeps the newest joint state and heartbeat, and reports which of them is stale.

    measured: joint positions, float64 `[D]`, None before the first; measured_at: its stamp [s]
    """

    STATE_FIELDS = ("measured", "measured_at", "_heartbeat_at")

    def __init__(self, spec: RobotSpec):
        self._spec = spec
        self.reset()

    def reset(self) -> None:
        """Forgets joint state and heartbeat."""
        self.measured: np.ndarray | None = None
        self.measured_at = self._heartbeat_at = -np.inf

    def update_joint_state(self, stamp: float, positions: np.ndarray) -> Rejection | None:
        """Stores positions `[D]` measured at `stamp` [s]; rejects them if stamp, shape or a value
        is invalid."""
        if not np.isfinite(stamp):
            text = f"a joint state has the stamp {stamp}; check the driver"
            return Rejection("joint_states_stamp", text)
        positions = np.array(positions, np.float64)
        if positions.shape != (self._spec.action_dim,):
            text = (
                f"a joint state has the shape {positions.shape}, wanted ({self._spec.action_dim},)"
            )
            return Rejection("joint_states_shape", text)
        finite = np.isfinite(positions)
        if not finite.all():
            bad = ", ".join(n for n, ok in zip(self._spec.joint_names, finite) if not ok)
            text = f"the joint state is not finite at {bad}; check the driver"
            return Rejection("joint_states_not_finite", text)
        self.measured, self.measured_at = positions, stamp
        return None

    def heartbeat(self, now: float) -> None:
        """Notes a heartbeat of the policy at `now` [s]."""
        self._heartbeat_at = now

    def ages(self, now: float) -> dict[str, float | None]:
        """Age [s] of joint state and heartbeat at `now` [s]; None if there was none."""
        stamps = {"joint_states_age_s": self.measured_at, "heartbeat_age_s": self._heartbeat_at}
        return {key: now - at if np.isfinite(at) else None for key, at in stamps.items()}

    def stale_reason(self, now: float, max_heartbeat_age_s: float) -> str:
        """Reason code if the arm must not continue at `now` [s], else ''.

        max_heartbeat_age_s: 0 if no heartbeat is expected
        """
        age = now - self.measured_at
        if not age <= self._spec.joint_states_max_age_s:
            return "joint_states_stale"
        if not age >= -CLOCK_SKEW_S:
            return "joint_states_future"
        alive = -CLOCK_SKEW_S <= now - self._heartbeat_at <= max_heartbeat_age_s
        return "" if alive or max_heartbeat_age_s == 0 else "heartbeat_lost"
