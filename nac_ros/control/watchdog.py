"""What the guard last heard of arm and policy, and whether that may still be relied on."""

import numpy as np

from nac_ros.control.checks import CLOCK_SKEW_S, Rejection
from nac_ros.robot.spec import RobotSpec


class Watchdog:
    """Measured positions `[D]` or None, with times [s] by the same clock as `now`."""

    MEMORY = ("measured", "measured_at", "_beat_at")

    def __init__(self, spec: RobotSpec):
        self._spec = spec
        self.forget()

    def forget(self) -> None:
        """As if nothing had ever come."""
        self.measured: np.ndarray | None = None
        self.measured_at = self._beat_at = -np.inf

    def measure(self, stamp: float, positions: np.ndarray) -> Rejection | None:
        """Takes a joint state, or says why not."""
        if not np.isfinite(stamp):
            return Rejection(
                "joint_states_stamp", f"a joint state stamped {stamp}; check the driver"
            )
        positions = np.array(positions, np.float64)
        if positions.shape != (self._spec.action_dim,):
            got = f"{positions.shape}, wanted {self._spec.action_dim} positions"
            return Rejection("joint_states_shape", f"a joint state of {got}")
        finite = np.isfinite(positions)
        if not finite.all():
            bad = ", ".join(n for n, ok in zip(self._spec.joint_names, finite) if not ok)
            text = f"the joint state is not finite at {bad}; check the driver"
            return Rejection("joint_states_not_finite", text)
        self.measured, self.measured_at = positions, stamp
        return None

    def beat(self, now: float) -> None:
        """The policy said that its inference is alive."""
        self._beat_at = now

    def ages(self, now: float) -> dict[str, float | None]:
        """Seconds since each came; None for what never did."""
        stamps = {"joint_states_age_s": self.measured_at, "heartbeat_age_s": self._beat_at}
        return {key: now - at if np.isfinite(at) else None for key, at in stamps.items()}

    def doubt(self, now: float, max_heartbeat_age_s: float) -> str:
        """Why the arm must not move on, or ''; a heartbeat age of 0 expects none."""
        age = now - self.measured_at
        if not age <= self._spec.joint_states_max_age_s:
            return "joint_states_stale"
        if not age >= -CLOCK_SKEW_S:
            return "joint_states_future"
        alive = -CLOCK_SKEW_S <= now - self._beat_at <= max_heartbeat_age_s
        return "" if alive or max_heartbeat_age_s == 0 else "heartbeat_lost"
