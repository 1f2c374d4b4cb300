"""Running a node as a process: a clean end on SIGINT and SIGTERM, or when its starter is gone."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from nac_ros.core.errors import NacError
from nac_ros.ros.node_graph import STARTER
from nac_ros.ros.node_log import flush_logs
from nac_ros.ros.output import unblock_output

STEADY = Clock(clock_type=ClockType.STEADY_TIME)  # for timers: nobody sets it
WAKE_S = 0.1  # how soon a signal is noticed


class ClosableNode(Protocol):
    """A node that brings motion to rest and ends its threads while it can still publish."""

    def close(self) -> None:
        """Before the node is destroyed."""

    def destroy_node(self) -> None: ...


def run(make: Callable[[], ClosableNode], argv: list[str] | None = None) -> int:
    """Spins the node that `make` builds until a signal; exit code 2 when it cannot start."""
    unblock_output()
    threading.excepthook = _end_with
    wanted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: wanted.append(received))
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
    except NacError as error:
        print(error, file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        _spin(node, wanted)
    finally:
        node.close()
        flush_logs()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _end_with(failed: threading.ExceptHookArgs) -> None:
    """No thread dies unheard: the process goes with it, and others hear of that."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    exit_process(1)


def _orphaned() -> bool:
    return os.environ.get(STARTER, str(os.getppid())) != str(os.getppid())


def exit_process(code: int) -> None:
    """Ends the process at once: the middleware's own clean-up at exit can hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _spin(node: ClosableNode, wanted: list[int]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)  # type: ignore[arg-type]
    while not wanted and rclpy.ok() and not _orphaned():
        executor.spin_once(timeout_sec=WAKE_S)
    executor.shutdown(timeout_sec=WAKE_S)
