"""Jogging: operator input -> joint velocities with ramps, for the tool or for single joints."""

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
    """Jogs the tool or single joints; the gripper has a velocity input in both modes.

    mode: what is jogged; frame: whose axes a tool velocity refers to
    limited_by: limits that the last candidate ran into
    """

    def __init__(
        self,
        spec: RobotSpec,
        mode: JogMode,
        frame: Frame,
        speeds: tuple[float, float, float],
        ramp_s: float,
    ):
        """speeds: of the tool [m/s] and [rad/s], and of joints as a share of their limits.

        ramp_s: time from rest to full speed [s]. Raises ConfigError for mode tool without a body.
        """
        linear, angular, share = speeds
        self._spec, self._arm = spec, np.flatnonzero(spec.relative_mask)
        self._tool_speed = np.array([linear] * 3 + [angular] * 3)
        self._joint_speed, self._ramp_s = share * spec.velocity_limit, ramp_s
        self.mode, self.frame = mode, frame
        self.tool = DifferentialIk(spec) if mode == "tool" or spec.body is not None else None
        self.limited_by: tuple[str, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Restarts the ramps from standstill."""
        self._twist, self._joints = np.zeros(6), np.zeros(self._spec.action_dim)

    def switch_mode(self) -> None:
        """Changes between tool and joints; a robot without a body stays with joints."""
        self.mode = "joints" if self.mode == "tool" or self.tool is None else "tool"
        self.reset()

    def switch_frame(self) -> None:
        """Changes between the axes of the base and those of the tool."""
        self.frame = "tool" if self.frame == "base" else "base"
        self.reset()

    def candidate_velocities(
        self, operator: OperatorInput, target: ServoTarget, dt: float
    ) -> Iterator[np.ndarray]:
        """Joint velocities `[D]` in the order to try them.

        First the requested motion. If it leaves the workspace, the same without its component
        along one axis of the base, so that the tool slides along the limit: z first, because the
        table is the limit met most often.
        """
        self.limited_by = ()
        self._ramp(operator, dt)
        if self.mode == "joints" or self.tool is None:
            self._note_limits(self._joints, target, dt)
            yield self._joints
            return
        twist = self._twist * self._tool_speed
        if self.frame == "tool":
            rotation = self.tool.pose(target.positions)[:3, :3]
            twist = np.concatenate([rotation @ twist[:3], rotation @ twist[3:]])
        yield self._tool_velocities(twist, target, dt)
        for axis in (2, 1, 0):
            if twist[axis]:
                slide = np.where(np.arange(6) == axis, 0, twist)
                yield self._tool_velocities(slide, target, dt)

    def _tool_velocities(self, twist: np.ndarray, target: ServoTarget, dt: float) -> np.ndarray:
        """Joint velocities `[D]` for a twist `[6]` in the axes of the base."""
        assert self.tool is not None
        result = self.tool.solve(target.positions, twist, *target.velocity_limits(dt))
        self.limited_by = tuple(f"limit.{name}" for name in result.joints_at_limit)
        self.limited_by += ("singular",) if result.singular else ()
        return result.velocities + np.where(self._spec.relative_mask, 0, self._joints)

    def _ramp(self, operator: OperatorInput, dt: float) -> None:
        """Moves the commanded speeds towards the operator's, from rest to full in `ramp_s`."""
        joints = np.zeros(self._spec.action_dim)
        if self.mode == "joints":
            jogged = self._arm[: len(operator.joints)]
            joints[jogged] = operator.joints[: len(jogged)]
        joints[~self._spec.relative_mask] = operator.gripper
        step = dt / self._ramp_s
        self._twist = _step_towards(self._twist, operator.twist, np.full(6, step))
        self._joints = _step_towards(
            self._joints, joints * self._joint_speed, step * self._joint_speed
        )

    def _note_limits(self, velocities: np.ndarray, target: ServoTarget, dt: float) -> None:
        low, high = target.velocity_limits(dt)
        outside = (velocities < low - 1e-9) | (velocities > high + 1e-9)
        names = self._spec.joint_names
        self.limited_by = tuple(f"limit.{names[i]}" for i in np.flatnonzero(outside))


def _step_towards(value: np.ndarray, goal: np.ndarray, max_step: np.ndarray) -> np.ndarray:
    """A step on the straight line to `goal`, no component larger than `max_step`."""
    change = goal - value
    return value + change / max(1.0, float((np.abs(change) / max_step).max()))
