"""Where the guard's motion leaves: one publisher for each group of joints."""

import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMsg
from trajectory_msgs.msg import JointTrajectoryPoint

from nac_ros.control.checks import Rejection
from nac_ros.control.guard import Guard, Source
from nac_ros.core.errors import BadObservation, NacError
from nac_ros.core.types import JointTrajectory
from nac_ros.robot.joint_states import JointStateMerger
from nac_ros.robot.spec import ControllerGroup, RobotSpec
from nac_ros.ros import messages, qos
from nac_ros.ros.controller_state import ControllerStates
from nac_ros.ros.node_clock import NodeClock
from nac_ros.ros.polled_subscription import PolledSubscription, Received


class Controller:
    """One controller group and the publisher that reaches it."""

    def __init__(self, node: Node, spec: RobotSpec, group: ControllerGroup):
        self._group, self._streams = group, group.kind == "jtc"
        self._columns = [spec.joint_names.index(joint) for joint in group.joints]
        self._spare: list[JointTrajectoryPoint] = []
        kind = JointTrajectoryMsg if self._streams else Float64MultiArray
        self.publisher = node.create_publisher(kind, group.topic, qos.COMMAND)

    def send(
        self, motion: JointTrajectory | None, here: np.ndarray, now: float, origin_ns: int
    ) -> None:
        """A trajectory that ends at rest, where there is a new one, or the bare set-point for a
        forward controller."""
        if self._streams and motion is None:
            return
        if self._streams:
            arrival = now if self._group.stamps == "arrival" else None
            message = messages.to_trajectory_message(
                motion, self._group.joints, self._columns, arrival, origin_ns, self._spare
            )
        else:
            message = messages.to_array_message(here[self._columns])
        self.publisher.publish(message)


COMMANDS: dict[Source, str] = {"policy": "policy/chunk", "teleop": "teleop/command"}
MAX_SENDERS = 4  # whose commands wait to be looked at
SHARE = 0.25  # of a tick's period, after which the other commands wait for the next tick
# Reasons of BadObservation -> those under which the guard counts joint states that it refuses.
JOINT_REASONS = {
    "not_finite": "joint_states_not_finite",
    "clock": "joint_states_stamp",
    "stale": "joint_states_partial",
}


class GuardInputs:
    """Joint states, heartbeats and commands of `node`, told to a guard.

    clock: the guard's time
    refused: is told of each thing that the guard did not take, None where it did
    """

    def __init__(
        self,
        node: Node,
        spec: RobotSpec,
        clock: NodeClock,
        refused: Callable[[Rejection | None], None],
    ):
        self._node, self._spec, self._clock, self._refused = node, spec, clock, refused
        joint_bytes = messages.max_joint_state_bytes(spec)
        chunk_bytes = messages.max_chunk_bytes(spec)
        self._joints = PolledSubscription(
            node, JointState, spec.joint_states_topic, qos.SENSOR, joint_bytes
        )
        self._merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
        self._controllers = ControllerStates(node, spec)
        self.reference_text = self._controllers.text
        self._beats = PolledSubscription(node, Header, "policy/heartbeat", qos.COMMAND)
        self._commands = {
            source: PolledSubscription(node, JointTrajectoryMsg, topic, qos.COMMAND_QUEUE, chunk_bytes)
            for source, topic in COMMANDS.items()
        }
        self._waiting: dict[tuple[Source, bytes], Received] = {}

    def destroy(self) -> None:
        """The guard hears nothing more."""
        for polled in (self._joints, self._beats, *self._commands.values()):
            self._node.destroy_subscription(polled.subscription)
        self._controllers.destroy()

    def take(self, guard: Guard, now: float, active: bool) -> None:
        """Tells what came since the last call, which is `now` [s].

        active: whether commands count; those that came meanwhile are forgotten
        """
        for received in self._joints.take():
            self._measure(guard, received)
        for rejection in self._controllers.take(guard, now):
            self._refused(rejection)
        if list(self._beats.take()):
            guard.heartbeat(now)
        self._waiting |= self._newest_commands()
        if active:
            self._take_commands(guard, now)
        else:
            self._waiting.clear()

    def _take_commands(self, guard: Guard, now: float) -> None:
        """As many as there is time for, of those who wait longest first; at least one."""
        senders, until = list(self._waiting), time.perf_counter() + SHARE * guard.period
        for key in senders[:MAX_SENDERS]:
            self._refused(self._command(guard, now, key[0], self._waiting.pop(key)))
            if time.perf_counter() > until:
                break
        for key in senders[MAX_SENDERS:]:
            del self._waiting[key]
        if len(senders) > MAX_SENDERS:
            text = (
                f"{len(senders)} senders of commands at once; {MAX_SENDERS} were heard, end some"
            )
            self._refused(guard.reject("crowd", text))

    def _measure(self, guard: Guard, received: Received) -> None:
        try:
            message = received.message(JointState)
            sample = self._merger.add_message(message, self._clock.origin_ns)
        except BadObservation as error:
            reason = JOINT_REASONS.get(error.reason, "joint_states_names")
            self._refused(guard.reject(reason, str(error)))
        except NacError as error:
            self._refused(guard.reject("joint_states_names", str(error)))
        else:
            if sample is not None:
                self._refused(guard.update_joint_state(*sample))

    def _newest_commands(self) -> dict[tuple[Source, bytes], Received]:
        """Each sender's newest: who sends a thousand a second takes nobody's place."""
        return {
            (source, received.sender): received
            for source, polled in self._commands.items()
            for received in polled.take()
        }

    def _command(
        self, guard: Guard, now: float, source: Source, received: Received
    ) -> Rejection | None:
        try:
            if not received.rejection:
                messages.check_chunk_size(received.data, self._spec)
            message = received.message(JointTrajectoryMsg)
            chunk = messages.from_chunk_message(message, self._clock.origin_ns)
        except NacError as error:
            return guard.reject("shape", str(error))
        return guard.accept(chunk, now, source)
