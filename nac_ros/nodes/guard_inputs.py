"""What the guard hears of the arm, the policy and the operator's hand: looked at before each tick.

None of these messages wakes the guard, so that neither an arm of 1 kHz nor a sender that floods a
topic costs its ticks anything.
"""

from collections.abc import Callable
from itertools import islice

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from nac_ros.errors import BadObservation, NacError
from nac_ros.joint_states import JointStateMerger
from nac_ros.nodes import convert, qos
from nac_ros.nodes.polled import Polled, Received
from nac_ros.robot import RobotSpec
from nac_ros.runtime.guard import Guard, Source
from nac_ros.safety.limits import Refusal

COMMANDS: dict[Source, str] = {"policy": "policy/chunk", "teleop": "teleop/command"}
MAX_SENDERS = 4  # whose commands are looked at in one tick
# Reasons of BadObservation -> those under which the guard counts joint states that it refuses.
JOINT_REASONS = {
    "not_finite": "joint_states_not_finite",
    "clock": "joint_states_stamp",
    "stale": "joint_states_partial",
}


class GuardInputs:
    """Joint states, heartbeats and commands of `node`, told to a guard.

    origin_ns: where the guard's time begins
    refused: is told of each thing that the guard did not take, None where it did
    """

    def __init__(
        self,
        node: Node,
        spec: RobotSpec,
        origin_ns: int,
        refused: Callable[[Refusal | None], None],
    ):
        self._node, self._spec, self._origin_ns, self._refused = node, spec, origin_ns, refused
        self._joints = Polled(node, JointState, spec.joint_states_topic, qos.SENSOR)
        self._merger = JointStateMerger(spec.joint_names, spec.joint_states_max_age_s)
        self._beats = Polled(node, Header, "policy/heartbeat", qos.COMMAND)
        self._commands = {
            source: Polled(node, JointTrajectory, topic, qos.CROWD)
            for source, topic in COMMANDS.items()
        }

    def destroy(self) -> None:
        """The guard hears nothing more."""
        for polled in (self._joints, self._beats, *self._commands.values()):
            self._node.destroy_subscription(polled.subscription)

    def take(self, guard: Guard, now: float, active: bool) -> None:
        """Tells what came since the last call, which is `now` [s].

        active: whether commands count; those that came meanwhile are forgotten
        """
        for received in self._joints.take():
            self._measure(guard, received)
        if list(self._beats.take()):
            guard.beat(now)
        newest = self._newest_commands()
        if not active:
            return
        for (source, _), received in islice(newest.items(), MAX_SENDERS):
            self._refused(self._command(guard, now, source, received))
        if len(newest) > MAX_SENDERS:
            text = f"{len(newest)} senders of commands at once; {MAX_SENDERS} were heard, end some"
            self._refused(guard.refuse("crowd", text))

    def _measure(self, guard: Guard, received: Received) -> None:
        try:
            message = received.message(JointState)
            sample = self._merger.push_message(message, self._origin_ns)
        except BadObservation as error:
            reason = JOINT_REASONS.get(error.reason, "joint_states_names")
            self._refused(guard.refuse(reason, str(error)))
        except NacError as error:
            self._refused(guard.refuse("joint_states_names", str(error)))
        else:
            if sample is not None:
                self._refused(guard.measure(*sample))

    def _newest_commands(self) -> dict[tuple[Source, bytes], Received]:
        """Each sender's newest: who sends a thousand a second takes nobody's place."""
        return {
            (source, received.sender): received
            for source, polled in self._commands.items()
            for received in polled.take()
        }

    def _command(
        self, guard: Guard, now: float, source: Source, received: Received
    ) -> Refusal | None:
        try:
            chunk = convert.from_chunk_message(received.message(JointTrajectory), self._origin_ns)
        except NacError as error:
            return guard.refuse("shape", str(error))
        return guard.accept(chunk, now, source)
