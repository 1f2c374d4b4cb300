"""Inputs and outputs of the guard node: topics to calls of a Guard, its motion to controllers."""

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
from nac_ros.ros.polled_subscription import PolledSubscription, ReceivedMessage

COMMAND_TOPICS: dict[Source, str] = {"policy": "policy/chunk", "teleop": "teleop/command"}
MAX_PUBLISHERS = 4  # of commands that are read in one tick
TIME_SHARE = 0.25  # of a tick's period, after which the remaining commands wait for the next tick
# Reason of a BadObservation -> reason under which the guard counts the rejected joint state.
JOINT_STATE_REASONS = {
    "not_finite": "joint_states_not_finite",
    "clock": "joint_states_stamp",
    "stale": "joint_states_partial",
}


class ControllerPublisher:
    """Publishes the set-points of one controller group."""

    def __init__(self, node: Node, spec: RobotSpec, group: ControllerGroup):
        self._group, self._takes_trajectories = group, group.kind == "jtc"
        self._columns = [spec.joint_names.index(joint) for joint in group.joints]
        self._point_pool: list[JointTrajectoryPoint] = []
        message_type = JointTrajectoryMsg if self._takes_trajectories else Float64MultiArray
        self._publisher = node.create_publisher(message_type, group.topic, qos.COMMAND)

    def send(
        self, trajectory: JointTrajectory | None, setpoint: np.ndarray, now: float, origin_ns: int
    ) -> None:
        """Publishes at `now` [s] the new trajectory of a jtc group, if there is one, or the
        set-point `[D]` of a forward group. Times are counted from `origin_ns`."""
        if not self._takes_trajectories:
            message = messages.to_array_message(setpoint[self._columns])
        elif trajectory is None:
            return
        else:
            sent = now if self._group.stamps == "arrival" else None
            message = messages.to_trajectory_message(
                trajectory, self._group.joints, self._columns, sent, origin_ns, self._point_pool
            )
        self._publisher.publish(message)


class GuardInputs:
    """Passes the joint states, heartbeats and commands that `node` receives to a Guard.

    clock: the guard's time
    on_rejection: called with each rejection, and with None for each command that was accepted
    """

    def __init__(
        self,
        node: Node,
        spec: RobotSpec,
        clock: NodeClock,
        on_rejection: Callable[[Rejection | None], None],
    ):
        self._spec, self._clock, self._on_rejection = spec, clock, on_rejection
        joint_bytes = messages.max_joint_state_bytes(spec)
        chunk_bytes = messages.max_chunk_bytes(spec)
        self._joint_states = PolledSubscription(
            node, JointState, spec.joint_states_topic, qos.SENSOR, joint_bytes
        )
        self._merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
        self._controllers = ControllerStates(node, spec)
        self.reference_text = self._controllers.text
        self._heartbeats = PolledSubscription(node, Header, "policy/heartbeat", qos.COMMAND)
        self._commands = {
            source: PolledSubscription(
                node, JointTrajectoryMsg, topic, qos.COMMAND_QUEUE, chunk_bytes
            )
            for source, topic in COMMAND_TOPICS.items()
        }
        self._waiting: dict[tuple[Source, bytes], ReceivedMessage] = {}

    def update(self, guard: Guard, now: float, active: bool) -> None:
        """Passes what was received since the last call to `guard`; the time is `now` [s].

        active: False discards the commands
        """
        for received in self._joint_states.take():
            self._update_joint_state(guard, received)
        for rejection in self._controllers.update(guard, now):
            self._on_rejection(rejection)
        if list(self._heartbeats.take()):
            guard.heartbeat(now)
        self._waiting |= self._newest_commands()
        if active:
            self._accept_commands(guard, now)
        else:
            self._waiting.clear()

    def _newest_commands(self) -> dict[tuple[Source, bytes], ReceivedMessage]:
        """The newest command of each publisher: one that floods the topic displaces no other."""
        return {
            (source, received.publisher): received
            for source, subscription in self._commands.items()
            for received in subscription.take()
        }

    def _accept_commands(self, guard: Guard, now: float) -> None:
        """Reads the commands of the publishers that wait longest: at least one, and more while
        TIME_SHARE allows."""
        keys, until = list(self._waiting), time.perf_counter() + TIME_SHARE * guard.period
        for source, publisher in keys[:MAX_PUBLISHERS]:
            received = self._waiting.pop((source, publisher))
            self._on_rejection(self._accept(guard, now, source, received))
            if time.perf_counter() > until:
                break
        for key in keys[MAX_PUBLISHERS:]:
            del self._waiting[key]
        if len(keys) > MAX_PUBLISHERS:
            text = (
                f"{len(keys)} publishers of commands at once; {MAX_PUBLISHERS} were read, end some"
            )
            self._on_rejection(guard.reject("crowd", text))

    def _accept(
        self, guard: Guard, now: float, source: Source, received: ReceivedMessage
    ) -> Rejection | None:
        try:
            if not received.rejection:
                messages.check_chunk_size(received.data, self._spec)
            message = received.deserialize(JointTrajectoryMsg)
            chunk = messages.from_chunk_message(message, self._clock.origin_ns)
        except NacError as error:
            return guard.reject("shape", str(error))
        return guard.accept(chunk, now, source)

    def _update_joint_state(self, guard: Guard, received: ReceivedMessage) -> None:
        try:
            message = received.deserialize(JointState)
            sample = self._merger.add_message(message, self._clock.origin_ns)
        except NacError as error:
            reason = error.reason if isinstance(error, BadObservation) else ""
            reason = JOINT_STATE_REASONS.get(reason, "joint_states_names")
            self._on_rejection(guard.reject(reason, str(error)))
        else:
            if sample is not None:
                self._on_rejection(guard.update_joint_state(*sample))
