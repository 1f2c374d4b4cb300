"""The faults of `nac faults`: how each is injected, by when the arm must rest, and reasons."""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory

from nac_ros.apps.fault_test_bench import DEFAULT_GRAPH, FaultTestBench, GraphOptions
from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.ros import messages

Action = Callable[[FaultTestBench], Any]
ChunkChange = Callable[[ActionChunk], Any]

FLOOD_S, FLOOD_HZ = 2.0, 1000
FULL_DISK_BYTES = 4096  # a file of the guard that cannot grow beyond this stands for a full disk
# A signal handler runs in the interpreter's main thread; this sum never releases its lock.
BLOCK_ON_SIGNAL = "import signal; signal.signal(signal.SIGUSR1, lambda *_: sum(range(10**12)))"
# Limits [s] until the arm rests: time to detect the fault, the stop itself (0.3 s from full
# speed), and the same again for a busy machine.
HEARTBEAT_S, JOINT_STATES_S, CHUNK_S, STOP_S = 1.0, 0.8, 1.6, 0.8


def _do_nothing(bench: FaultTestBench) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """text: description; inject: causes the fault; undo: ends it
    stop_s: limit until the arm must rest; None if it must not stop
    reasons: guard or policy must report one of these; none if empty
    graph: the graph that the fault needs
    """

    name: str
    text: str
    inject: Action
    stop_s: float | None
    reasons: tuple[str, ...] = ()
    undo: Action = _do_nothing
    graph: GraphOptions = DEFAULT_GRAPH


def _relay(command: str) -> Action:
    """Sends a command to the relay between the arm and the graph."""
    return lambda bench: bench.inject(command)


def _kill(name: str) -> Action:
    return lambda bench: bench.processes.kill(name)


def _pause_policy(bench: FaultTestBench) -> None:
    bench.processes.pause("policy")


def _restart(name: str) -> Action:
    """Kills a node if it still runs, and starts it again."""

    def restart(bench: FaultTestBench) -> None:
        if bench.processes.is_running(name):
            bench.processes.kill(name)
        bench.restart(name)

    return restart


def _limit_file_size(bytes_: int, bench: FaultTestBench) -> None:
    """Limits the size of the files that the guard may write."""
    pid = bench.processes.pid("guard")
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (bytes_, hard))


def _block_call_log(folder: Path) -> None:
    """Puts a pipe that nobody reads in place of the guard's call log."""
    (folder / "call_log").mkdir(parents=True)
    os.mkfifo(folder / "call_log" / "guard-00000.jsonl")


BLOCKED_CALL_LOG = GraphOptions(prepare=_block_call_log)


def _tamper_with_bundle(bench: FaultTestBench) -> None:
    """Restarts the policy with a bundle in which one bit is changed."""
    policy, bundle = bench.nodes["policy"], bench.folder / "tampered"
    shutil.copytree(policy.parameters["bundle"], bundle, dirs_exist_ok=True)
    weights = bundle / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    bench.processes.kill("policy")
    bench.processes.start(replace(policy, parameters={**policy.parameters, "bundle": str(bundle)}))
    try:
        bench.client.activate("policy")
    except NacError as error:
        if "model.safetensors" in str(error):
            bench.observed.add("bundle_rejected")


def _flood(bench: FaultTestBench) -> None:
    """Publishes invalid chunks at a high rate, like a faulty foreign node."""
    message = serialize_message(bench.altered_chunk(_not_finite))

    def publish() -> None:
        deadline = time.monotonic() + FLOOD_S
        while time.monotonic() < deadline:
            bench.chunk_publisher.publish(message)
            time.sleep(1 / FLOOD_HZ)

    Thread(target=publish, daemon=True).start()


def _not_finite(chunk: ActionChunk) -> ActionChunk:
    actions = chunk.actions.copy()
    actions[5, 1] = np.nan
    return replace(chunk, actions=actions)


def _reversed_times(chunk: ActionChunk) -> JointTrajectory:
    message = messages.to_chunk_message(chunk)
    message.points = message.points[::-1]
    return message


def _equal_times(chunk: ActionChunk) -> JointTrajectory:
    message = messages.to_chunk_message(chunk)
    for point in message.points[1:]:
        point.time_from_start = message.points[0].time_from_start
    return message


def _chunk_fault(name: str, text: str, change: ChunkChange, reason: str) -> Fault:
    """One altered chunk, slightly newer than the policy's newest; the arm must not stop."""

    def publish(bench: FaultTestBench) -> None:
        altered = bench.altered_chunk(lambda c: change(replace(c, stamp=c.stamp + 0.02)))
        bench.chunk_publisher.publish(altered)

    return Fault(name, text, publish, None, (reason,))


def _policy_fault(
    name: str, text: str, inject: Action, graph: GraphOptions = DEFAULT_GRAPH
) -> Fault:
    """The policy stops sending heartbeats; it is restarted afterwards."""
    return Fault(name, text, inject, HEARTBEAT_S, ("heartbeat_lost",), _restart("policy"), graph)


def _camera_fault(name: str, text: str, command: str, reason: str) -> Fault:
    return Fault(name, text, _relay(command), CHUNK_S, (reason,))


def _joints_fault(name: str, text: str, command: str) -> Fault:
    return Fault(name, text, _relay(command), JOINT_STATES_S, ("joint_states_stale",))


def _clock_fault(name: str, text: str, seconds: int, reason: str) -> Fault:
    jump, back = _relay(f"clock {seconds}"), _relay(f"clock {-seconds}")
    reasons = ("tick_gap", reason)
    return Fault(name, text, jump, JOINT_STATES_S, reasons, back, GraphOptions(sim_time=True))


def _overshoot(chunk: ActionChunk) -> ActionChunk:
    return replace(chunk, actions=chunk.actions + 9)


def _in_future(chunk: ActionChunk) -> ActionChunk:
    return replace(chunk, stamp=chunk.stamp + 2)


_ALL = (
    _policy_fault("policy-killed", "the policy process is killed", _kill("policy")),
    _policy_fault("policy-paused", "the policy process is stopped (SIGSTOP)", _pause_policy),
    _policy_fault(
        "policy-stuck",
        "the policy's interpreter never releases its lock",
        lambda bench: bench.processes.signal("policy", signal.SIGUSR1),
        GraphOptions(setup_code=(("policy", BLOCK_ON_SIGNAL),)),
    ),
    Fault("guard-killed", "the guard is killed", _kill("guard"), STOP_S, (), _restart("guard")),
    _camera_fault("camera-stopped", "no more images arrive", "images stop", "stale"),
    _camera_fault("camera-frozen", "the same image arrives again", "images freeze", "frozen"),
    Fault("camera-doubled", "each image arrives twice", _relay("images double"), None, ("clock",)),
    _camera_fault("camera-late", "images arrive half a second late", "images late", "stale"),
    _camera_fault("camera-size", "images arrive at half the size", "images size", "image_size"),
    _joints_fault("joints-stopped", "no more joint states arrive", "joint_states stop"),
    _joints_fault("joints-nan", "joint states contain NaN", "joint_states nan"),
    Fault(
        "joints-reordered", "joints arrive in another order", _relay("joint_states order"), None
    ),
    _joints_fault("joints-renamed", "joints arrive under other names", "joint_states names"),
    _clock_fault("clock-ahead", "the clock jumps an hour ahead", 3600, "joint_states_stale"),
    _clock_fault("clock-back", "the clock jumps an hour back", -3600, "joint_states_future"),
    _chunk_fault("chunk-nan", "a chunk contains NaN", _not_finite, "not_finite"),
    _chunk_fault("chunk-overshoot", "a chunk is far beyond the limits", _overshoot, "position"),
    _chunk_fault("chunk-reversed", "the times of a chunk decrease", _reversed_times, "shape"),
    _chunk_fault("chunk-doubled", "all points of a chunk have one time", _equal_times, "shape"),
    _chunk_fault("chunk-future", "a chunk has a stamp in the future", _in_future, "future"),
    Fault(
        "bundle-tampered",
        "the policy is restarted with one changed bit in its bundle",
        _tamper_with_bundle,
        HEARTBEAT_S,
        ("bundle_rejected",),
        _restart("policy"),
    ),
    Fault("flood", "1,000 bad chunks arrive per second", _flood, None, ("not_finite",)),
    Fault(
        "disk-full",
        "the disk of the guard's call log is full",
        partial(_limit_file_size, FULL_DISK_BYTES),
        None,
        ("call_log",),
        partial(_limit_file_size, resource.RLIM_INFINITY),
    ),
    Fault("disk-slow", "writing the call log blocks", _do_nothing, None, graph=BLOCKED_CALL_LOG),
    Fault(
        "arm-droops",
        "the arm rests 20 mrad off its set-points and sags under gravity; the guard starts there",
        FaultTestBench.reactivate_guard,
        None,
        graph=GraphOptions(twin=(("offset_rad", 0.02), ("compliance_rad_per_nm", 0.005))),
    ),
)
FAULTS = {fault.name: fault for fault in _ALL}
