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

from nac_ros.errors import NacError
from nac_ros.nodes import convert, qos
from nac_ros.nodes.controller_state import ControllerStates
from nac_ros.nodes.guard_clock import NodeClock
from nac_ros.nodes.polled import Polled, Received
from nac_ros.robot import RobotSpec
from nac_ros.runtime.guard import Guard, Source
from nac_ros.safety.limits import Refusal

COMMANDS: dict[Source, str] = {"policy": "policy/chunk", "teleop": "teleop/command"}
MAX_SENDERS = 4  # whose commands are looked at in one tick


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
        refused: Callable[[Refusal | None], None],
    ):
        self._node, self._spec, self._clock, self._refused = node, spec, clock, refused
        self._joints = Polled(node, JointState, spec.joint_states_topic, qos.SENSOR)
        self._controllers = ControllerStates(node, spec)
        self.reference_text = self._controllers.text
        self._beats = Polled(node, Header, "policy/heartbeat", qos.COMMAND)
        self._commands = {
            source: Polled(node, JointTrajectory, topic, qos.CROWD)
            for source, topic in COMMANDS.items()
        }

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
        for refusal in self._controllers.take(guard, now):
            self._refused(refusal)
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
            positions = convert.from_joint_state(message, self._spec.joint_names)
        except NacError as error:
            self._refused(Refusal("joint_states_names", str(error)))
        else:
            stamp = convert.to_seconds(message.header.stamp, self._clock.origin_ns)
            self._refused(guard.measure(stamp, positions))

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
            message = received.message(JointTrajectory)
            chunk = convert.from_chunk_message(message, self._clock.origin_ns)
        except NacError as error:
            return guard.refuse("shape", str(error))
        return guard.accept(chunk, now, source)
