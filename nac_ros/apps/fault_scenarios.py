"""The faults of `nac faults`: how each is made, how soon the arm has to rest, and what is said."""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory

from nac_ros.apps.fault_test_bench import FaultTestBench
from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.ros import messages

Act = Callable[[FaultTestBench], None]

FLOOD_S, FLOOD_HZ = 2.0, 1000
LITTLE = 4096  # bytes: where a disk is full, so to speak
# A signal handler runs in the interpreter's own thread, and this sum never lets go of it.
STUCK = "import signal; signal.signal(signal.SIGUSR1, lambda *_: sum(range(10**12)))"


def _nothing(rig: FaultTestBench) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """text: for people; act: makes it; after: undoes it; reasons: of which one has to be given
    stop_s: by when the arm has to rest; None: it may go on
    sim_time, before, twin: of the graph it needs, see FaultRig; prepare: its folder
    """

    name: str
    text: str
    act: Act
    stop_s: float | None
    reasons: tuple[str, ...] = ()
    after: Act = _nothing
    sim_time: bool = False
    before: tuple[tuple[str, str], ...] = ()
    prepare: Callable[[Path], None] | None = None
    twin: tuple[tuple[str, float], ...] = ()


def _spoil(what: str) -> Act:
    return lambda rig: rig.spoil(what)


def _kill(name: str) -> Act:
    return lambda rig: rig.processes.kill(name)


def _pause(rig: FaultTestBench) -> None:
    rig.processes.pause("policy")


def _killed(name: str) -> Act:
    def again(rig: FaultTestBench) -> None:
        if rig.processes.is_running(name):
            rig.processes.kill(name)
        rig.restart(name)

    return again


def _full_disk(rig: FaultTestBench) -> None:
    _limit(rig, LITTLE)


def _disk_again(rig: FaultTestBench) -> None:
    _limit(rig, resource.RLIM_INFINITY)


def _limit(rig: FaultTestBench, size: int) -> None:
    """A file of the guard may not grow beyond `size` [bytes]: to it the disk is full."""
    pid = rig.processes.pid("guard")
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def _slow_disk(folder: Path) -> None:
    """Where the guard's tape should be lies a pipe that nobody reads."""
    (folder / "call_log").mkdir(parents=True)
    os.mkfifo(folder / "call_log" / "guard-00000.jsonl")


def _tampered(rig: FaultTestBench) -> None:
    """A policy that is started anew finds one bit of its bundle changed."""
    bundle = rig.folder / "tampered"
    shutil.copytree(rig.nodes["policy"].parameters["bundle"], bundle, dirs_exist_ok=True)
    weights = bundle / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    rig.processes.kill("policy")
    node = rig.nodes["policy"]
    given = {**node.parameters, "bundle": str(bundle)}
    rig.processes.start(replace(node, parameters=given))
    try:
        rig.operator.activate("policy")
    except NacError as error:
        if "model.safetensors" in str(error):
            rig.said.add("bundle_refused")


def _flood(rig: FaultTestBench) -> None:
    """A stranger publishes nonsense as fast as it can."""
    message = serialize_message(rig.bad_chunk(_not_finite))

    def pour() -> None:
        deadline = time.monotonic() + FLOOD_S
        while time.monotonic() < deadline:
            rig.chunk_out.publish(message)
            time.sleep(1 / FLOOD_HZ)

    Thread(target=pour, daemon=True).start()


def _not_finite(chunk: ActionChunk) -> ActionChunk:
    actions = chunk.actions.copy()
    actions[5, 1] = np.nan
    return replace(chunk, actions=actions)


def _reversed(chunk: ActionChunk) -> JointTrajectory:
    message = messages.to_chunk_message(chunk)
    message.points = message.points[::-1]
    return message


def _doubled(chunk: ActionChunk) -> JointTrajectory:
    message = messages.to_chunk_message(chunk)
    for point in message.points[1:]:
        point.time_from_start = message.points[0].time_from_start
    return message


def _chunk(change: Callable[[Any], Any]) -> Act:
    return lambda rig: rig.chunk_out.publish(rig.bad_chunk(lambda c: change(_newer(c))))


def _newer(chunk: Any) -> Any:
    """As if planned a moment after the newest one."""
    return replace(chunk, stamp=chunk.stamp + 0.02)


LOST = ("heartbeat_lost",)
# The time to notice, the stop (0.3 s from full speed), and as much again for a busy machine.
BEAT, JOINTS, CHUNK, TAIL = 1.0, 0.8, 1.6, 0.8

_ALL = (
    Fault("policy-killed", "the policy's process is killed", _kill("policy"), BEAT, LOST,
          after=_killed("policy")),
    Fault("policy-paused", "the policy's process is stopped (SIGSTOP)", _pause, BEAT, LOST,
          after=_killed("policy")),
    Fault("policy-stuck", "the policy's interpreter never lets go of its lock",
          lambda rig: rig.processes.signal("policy", signal.SIGUSR1), BEAT, LOST,
          after=_killed("policy"), before=(("policy", STUCK),)),
    Fault("guard-killed", "the guard's process is killed", _kill("guard"), TAIL, (),
          after=_killed("guard")),
    Fault("camera-stopped", "no image comes any more", _spoil("images stop"), CHUNK, ("stale",)),
    Fault("camera-frozen", "the same picture comes again and again", _spoil("images freeze"),
          CHUNK, ("frozen",)),
    Fault("camera-doubled", "each image comes twice", _spoil("images double"), None, ("clock",)),
    Fault("camera-late", "images come half a second late", _spoil("images late"), CHUNK,
          ("stale",)),
    Fault("camera-size", "images come at half the size", _spoil("images size"), CHUNK,
          ("image_size",)),
    Fault("joints-stopped", "no joint state comes any more", _spoil("joint_states stop"), JOINTS,
          ("joint_states_stale",)),
    Fault("joints-nan", "joint states are not numbers", _spoil("joint_states nan"), JOINTS,
          ("joint_states_stale",)),
    Fault("joints-reordered", "joints come in another order, with their names",
          _spoil("joint_states order"), None),
    Fault("joints-renamed", "joints come under other names", _spoil("joint_states names"), JOINTS,
          ("joint_states_stale",)),
    Fault("clock-ahead", "the clock of guard and policy is set an hour ahead",
          _spoil("clock 3600"), JOINTS, ("tick_gap", "joint_states_stale"),
          after=_spoil("clock -3600"), sim_time=True),
    Fault("clock-back", "the clock of guard and policy is set an hour back",
          _spoil("clock -3600"), JOINTS, ("tick_gap", "joint_states_future"),
          after=_spoil("clock 3600"), sim_time=True),
    Fault("chunk-nan", "a chunk holds NaN", _chunk(_not_finite), None, ("not_finite",)),
    Fault("chunk-overshoot", "a chunk leads far beyond the limits",
          _chunk(lambda c: replace(c, actions=c.actions + 9)), None, ("position",)),
    Fault("chunk-reversed", "a chunk's times run backwards", _chunk(_reversed), None, ("shape",)),
    Fault("chunk-doubled", "a chunk's points are due at the same time", _chunk(_doubled), None,
          ("shape",)),
    Fault("chunk-future", "a chunk is stamped ahead",
          _chunk(lambda c: replace(c, stamp=c.stamp + 2)), None, ("future",)),
    Fault("bundle-tampered", "the policy dies, and one bit of its bundle is another", _tampered,
          BEAT, ("bundle_refused",), after=_killed("policy")),
    Fault("flood", "a stranger publishes bad chunks, a thousand a second", _flood, None,
          ("not_finite",)),
    Fault("disk-full", "the flight recorder finds the disk full", _full_disk, None, ("call_log",),
          after=_disk_again),
    Fault("disk-slow", "the flight recorder's disk takes nothing", _nothing, None,
          prepare=_slow_disk),
    Fault("arm-droops", "the arm rests 20 mrad beside its set-points and more by gravity, and is "
          "started from there", lambda rig: rig.start_again(), None,
          twin=(("offset_rad", 0.02), ("compliance_rad_per_nm", 0.005))),
)  # fmt: skip
FAULTS = {fault.name: fault for fault in _ALL}
