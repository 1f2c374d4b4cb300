"""Runs a node as a process, and the base class of the lifecycle nodes."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from nac_ros.core.errors import NacError
from nac_ros.ros.diagnostics import Diagnostics
from nac_ros.ros.node_log import NodeLog, flush_logs
from nac_ros.ros.output import unblock_output

STARTER = "NAC_ROS_STARTER"  # variable with a process id; the node ends when that process ends
WAKE_S = 0.1  # longest time until a signal takes effect
MAX_REASON = 400  # characters of an error that fails `configure`
ENTITIES = ("timer", "service", "client", "subscription", "publisher")

Entities = dict[str, list[Any]]  # kind -> the entities of a node


class ManagedNode(LifecycleNode):
    """Base of the lifecycle nodes.

    A subclass sets `diagnostics` in its constructor and implements `configure`, `activate` and
    `stop`. What `configure` creates (publishers, timers, ...) is destroyed by the transition
    cleanup, what is created later by deactivate. Every transition is reported on diagnostics.

    lifecycle: `not configured`, `inactive`, `active`, or why the last configuration failed
    """

    HELP = "see the log at level debug"  # after an unexpected error in `configure`
    diagnostics: Diagnostics

    def __init__(self, name: str):
        super().__init__(name)
        self.log = NodeLog(self)
        self.lifecycle = "not configured"
        self._before_configure: Entities | None = None
        self._before_activate: Entities | None = None

    def configure(self) -> None:
        """Prepares the node; an exception is reported and fails the transition."""

    def activate(self) -> None:
        """Starts the work; a NacError is logged and fails the transition."""

    def stop(self) -> None:
        """Ends motion and work: on deactivate, on shutdown, and before the process ends."""

    def release(self) -> None:
        """Frees what a complete or failed `configure` made, except for its ROS entities."""

    def close(self) -> None:
        """Called before the process ends, while the node can still publish."""
        self.stop()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._before_configure = self._entities()
        try:
            self.configure()
        except Exception as error:  # rclpy would end the node without a message
            self._clean_up()
            reason = " ".join(str(error).split())[:MAX_REASON]
            if not isinstance(error, NacError):
                self.log.debug(traceback.format_exc())
                reason = f"configuring failed, {type(error).__name__}: {reason}; {self.HELP}"
            self.log.error(reason)
            self._set_lifecycle(reason)
            return TransitionCallbackReturn.FAILURE
        self._set_lifecycle("inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._before_activate = self._entities()
        try:
            self.activate()
        except NacError as error:
            self.log.error(str(error))
            return TransitionCallbackReturn.FAILURE
        self._set_lifecycle("active")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._deactivate()
        self._set_lifecycle("inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._clean_up()
        self._set_lifecycle("not configured")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def _set_lifecycle(self, lifecycle: str) -> None:
        self.lifecycle = lifecycle
        self.diagnostics.publish()

    def _deactivate(self) -> None:
        self.stop()
        self._destroy_except(self._before_activate)
        self._before_activate = None

    def _clean_up(self) -> None:
        self.release()
        self._destroy_except(self._before_configure)

    def _entities(self) -> Entities:
        return {kind: list(getattr(self, f"{kind}s")) for kind in ENTITIES}

    def _destroy_except(self, kept: Entities | None) -> None:
        if kept is None:
            return
        for kind, entities in self._entities().items():
            for entity in entities:
                is_clock = (
                    getattr(entity, "topic_name", "") == "/clock"
                )  # rclpy's, for simulated time
                if entity not in kept[kind] and not is_clock:
                    getattr(self, f"destroy_{kind}")(entity)


class ClosableNode(Protocol):
    """A node that brings the robot to rest and ends its threads while it can still publish."""

    def close(self) -> None:
        """Called before the node is destroyed."""

    def destroy_node(self) -> None: ...


def run(make: Callable[[], ClosableNode], argv: list[str] | None = None) -> int:
    """Spins the node that `make` builds until SIGINT, SIGTERM or the exit of its parent process.

    Returns the exit code, 2 if the node cannot start.
    """
    unblock_output()
    threading.excepthook = _end_with
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
    except NacError as error:
        print(error, file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        _spin(node, signals)
    finally:
        node.close()
        flush_logs()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _end_with(failed: threading.ExceptHookArgs) -> None:
    """Ends the process when a thread fails, so that the other nodes notice."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    exit_process(1)


def _orphaned() -> bool:
    return os.environ.get(STARTER, str(os.getppid())) != str(os.getppid())


def exit_process(code: int) -> None:
    """Ends the process at once: the middleware's own clean-up at exit can hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _spin(node: ClosableNode, signals: list[int]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)  # type: ignore[arg-type]
    while not signals and rclpy.ok() and not _orphaned():
        executor.spin_once(timeout_sec=WAKE_S)
    executor.shutdown(timeout_sec=WAKE_S)
