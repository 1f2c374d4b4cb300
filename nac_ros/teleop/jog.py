"""Jogging: what a hand asks for, eased in and out, as velocities of joints."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from nac_ros.robot.differential_ik import DifferentialIk
from nac_ros.robot.spec import RobotSpec
from nac_ros.teleop.input_mapping import OperatorInput
from nac_ros.teleop.servo_target import ServoTarget

JogMode = Literal["tool", "joints"]
Frame = Literal["base", "tool"]


class JogController:
    """Leads the tool, or joint by joint; grippers have a direction of their own.

    mode, frame: what is led and along whose axes; `limits` names what the last step ran into
    """

    def __init__(
        self,
        spec: RobotSpec,
        mode: JogMode,
        frame: Frame,
        speeds: tuple[float, float, float],
        ramp_s: float,
    ):
        """speeds: of the tool [m/s] and [rad/s], and of joints as a share of their limits."""
        linear, angular, share = speeds
        self._spec, self._arm = spec, np.flatnonzero(spec.relative_mask)
        self._full = np.array([linear] * 3 + [angular] * 3)
        self._joint_speed, self._ease_s = share * spec.velocity_limit, ramp_s
        self.mode, self.frame = mode, frame
        self.tool = DifferentialIk(spec) if mode == "tool" or spec.body is not None else None
        self.limited_by: tuple[str, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Begins again from standstill."""
        self._twist, self._joints = np.zeros(6), np.zeros(self._spec.action_dim)

    def switch_mode(self) -> None:
        """From the tool to joints, or back where the robot's body is known."""
        self.mode = "joints" if self.mode == "tool" or self.tool is None else "tool"
        self.reset()

    def switch_frame(self) -> None:
        """From the base's axes to the tool's, or back."""
        self.frame = "tool" if self.frame == "base" else "base"
        self.reset()

    def candidate_velocities(self, wish: OperatorInput, target: ServoTarget, dt: float) -> Iterator[np.ndarray]:
        """Velocities `[D]` to try in turn: as asked for, then along the workspace's border."""
        self.limited_by = ()
        self._ease(wish, dt)
        if self.mode == "joints" or self.tool is None:
            self._note_limits(self._joints, target, dt)
            yield self._joints
            return
        twist = self._twist * self._full
        if self.frame == "tool":
            turn = self.tool.pose(target.positions)[:3, :3]
            twist = np.concatenate([turn @ twist[:3], turn @ twist[3:]])
        for kept in (None, 2, 1, 0):  # the table is what an arm meets most
            if kept is None or abs(twist[kept]) > 0:
                yield self._led(twist, kept, target, dt)

    def _led(
        self, twist: np.ndarray, without: int | None, target: ServoTarget, dt: float
    ) -> np.ndarray:
        asked = twist.copy()
        if without is not None:
            asked[without] = 0
        assert self.tool is not None
        way = self.tool.follow(target.positions, asked, *target.velocity_limits(dt))
        self.limited_by = tuple(f"limit.{name}" for name in way.held)
        self.limited_by += ("singular",) if way.singular else ()
        return way.velocities + np.where(self._spec.relative_mask, 0, self._joints)

    def _ease(self, wish: OperatorInput, dt: float) -> None:
        """Follows the hand, from rest to full in `ramp_s`."""
        joints = np.zeros(self._spec.action_dim)
        led = self._arm[: len(wish.joints)]
        if self.mode == "joints":
            joints[led] = wish.joints[: len(led)]
        joints[~self._spec.relative_mask] = wish.gripper
        joints *= self._joint_speed
        most = dt / self._ease_s
        self._twist = _eased(self._twist, wish.twist, np.full(6, most))
        self._joints = _eased(self._joints, joints, most * self._joint_speed)

    def _note_limits(self, velocities: np.ndarray, target: ServoTarget, dt: float) -> None:
        low, high = target.velocity_limits(dt)
        out = (velocities < low - 1e-9) | (velocities > high + 1e-9)
        self.limited_by = tuple(f"limit.{self._spec.joint_names[i]}" for i in np.flatnonzero(out))


def _eased(here: np.ndarray, wanted: np.ndarray, most: np.ndarray) -> np.ndarray:
    """From `here` straight towards `wanted`, no component farther than `most`."""
    change = wanted - here
    return here + change / max(1.0, float((np.abs(change) / most).max()))
