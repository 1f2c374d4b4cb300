"""An episode as the messages that a recorder would have received while it was played.

Every stamp is the source's own where it has any: a frame's joints lie at its time, what was to be
reached next one control period later, an image as much earlier as it was older. Messages come in
an order in which each frame is complete, and taken by whoever reads them, before the next one.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.data import messages, streams
from nac_ros.data.episode import Episode
from nac_ros.decode import NANO
from nac_ros.robot import CameraSpec, RobotSpec

BEGIN_NS = NANO  # when an episode begins whose source tells no time; 0 would be no time in ROS
SAME_NS = 1000  # stamps closer than this are of one image: ages are kept as float32


class Row(NamedTuple):
    """One serialized message; times [ns]; topic as the robot's YAML names it."""

    topic: str
    received: int
    published: int
    data: bytes


class Shot(NamedTuple):
    """An image: when it was taken [ns], and the first frame that shows it."""

    stamp: int
    frame: int


def frame_times(episode: Episode, rate_hz: float) -> list[int]:
    """When each of T frames was [ns]; by the rate where the source does not tell."""
    if episode.stamps_ns is not None:
        return [int(stamp) for stamp in episode.stamps_ns]
    return [BEGIN_NS + round(k * NANO / rate_hz) for k in range(len(episode))]


def rows(episode: Episode, spec: RobotSpec, order: Sequence[int]) -> Iterator[Row]:
    """All messages in the order of receipt; `order`: the column of each of the robot's joints."""
    times, names = frame_times(episode, spec.action_rate_hz), spec.joint_names
    period, columns = round(NANO / spec.action_rate_hz), list(order)
    waiting = {camera.name: deque(shots(episode, camera.name, times)) for camera in spec.cameras}
    shown = dict.fromkeys(waiting, times[0] - 1)
    yield Row(streams.TASK, times[0], times[0], messages.text(episode.task))
    said = _modes(episode, times, period)
    clock = times[0]
    for k, time in enumerate(times):
        yield from (Row(streams.MODE, at, at, messages.text(mode)) for at, mode in said[k])
        joints = messages.joint_state(time, names, episode.proprio[k, columns])
        command = messages.joint_state(time + period, names, episode.actions[k, columns])
        frame = [(spec.joint_states_topic, time, joints)]
        for name, shot in _due(waiting, shown, time):
            pixels = episode.images[name][shot.frame]
            frame.append(_picture(spec.camera(name), shot.stamp, pixels))
        for topic, at, data in [*frame, (streams.COMMAND, time + period, command)]:
            clock = max(clock, at)
            yield Row(topic, clock, at, data)


def shots(episode: Episode, camera: str, times: Sequence[int]) -> list[Shot]:
    """The images that a camera took, each once though several frames may show it.

    The last one counts as taken with its frame, for none came after it to complete the frame.
    """
    ages = episode.ages_ms.get(camera, np.zeros(len(times)))
    found: list[Shot] = []
    for k, time in enumerate(times):
        stamp = time - round(1e6 * float(ages[k]))
        if k == len(times) - 1:
            stamp = max(stamp, time)
        if not found or stamp > found[-1].stamp + SAME_NS:
            found.append(Shot(stamp, k))
    return found


def _due(
    waiting: dict[str, deque[Shot]], shown: dict[str, int], time: int
) -> list[tuple[str, Shot]]:
    """The images until every camera has reached `time`; those that reach just it come last, for
    then the frame is complete."""
    due: dict[str, list[Shot]] = {}
    for name, queue in waiting.items():
        while queue and shown[name] < time:
            due.setdefault(name, []).append(queue.popleft())
            shown[name] = due[name][-1].stamp
    order = sorted(due, key=lambda name: -shown[name])
    return [(name, shot) for name in order for shot in due[name]]


def _picture(camera: CameraSpec, stamp: int, pixels: np.ndarray) -> tuple[str, int, bytes]:
    if camera.transport == "jpeg":
        data = messages.compressed(stamp, camera.name, pixels)
        return camera.compressed_topic, stamp, data
    return camera.topic, stamp, messages.image(stamp, camera.name, pixels)


def _modes(
    episode: Episode, times: Sequence[int], period: int
) -> list[list[tuple[int, str]]]:  # fmt: skip
    """What guard/mode says at each frame, such that a reader finds the same interventions."""
    said: list[list[tuple[int, str]]] = [[] for _ in times]
    marks = episode.intervention
    if marks is None or not marks.any():
        return said
    before = False
    said[0].append((times[0] - period, "policy"))
    for k, mark in enumerate(marks):
        if mark != before:
            said[k].append((times[k], "teleop" if mark else "policy"))
        before = mark
    return said
