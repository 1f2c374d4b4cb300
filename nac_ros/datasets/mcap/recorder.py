"""Records episodes one after the other and monitors streams and disk; without ROS."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nac_ros.core.config import number_field
from nac_ros.core.errors import DatasetError
from nac_ros.core.files import free_bytes
from nac_ros.core.message_decoding import NANO
from nac_ros.core.timing import without_digits
from nac_ros.datasets.mcap.async_writer import AsyncEpisodeWriter, new_folder
from nac_ros.datasets.mcap.stream_monitor import StreamMonitor, StreamMonitorConfig, StreamSpec
from nac_ros.datasets.mcap.topics import RecordedTopic
from nac_ros.robot.frozen_images import FrozenImageDetector

GIGA = 1e9
INTERRUPTED = "interrupted"  # outcome of an episode that ended without a verdict
DISCARDED = "discarded"


@dataclass(frozen=True, kw_only=True)
class RecorderConfig(StreamMonitorConfig):
    """The stream monitor's limits, and:

    out: folder of episodes
    min_free_gb: with less disk space an episode ends, and none can be started
    max_episode_s: a longer episode is ended with the outcome `interrupted`
    """

    out: str = "data/episodes"
    min_free_gb: float = number_field(2.0, 0.0, 1e6)
    max_episode_s: float = number_field(600.0, 1.0, 1e6)


class EpisodeRecorder:
    """Starts, writes and ends episodes; times [ns].

    problems: current problems, a sentence each; last_result: result of the last episode
    joint_state_problem: set by the owner: what is wrong with joint states, '' if nothing is
    detector: see StreamMonitor; its owner adds the arm's joint states
    """

    def __init__(
        self,
        config: RecorderConfig,
        streams: Sequence[StreamSpec],
        topics: Sequence[RecordedTopic],
        joints: str,
        detector: FrozenImageDetector | None = None,
    ):
        """streams: monitored ones; topics: recorded ones; joints: topic of the joint states."""
        self.config, self._streams, self._joints = config, streams, joints
        self._detector = detector
        self._message_types = {topic.topic: topic.message_type for topic in topics}
        self.writer: AsyncEpisodeWriter | None = None
        self.problems, self.last_result = list[str](), ""
        self.joint_state_problem = ""
        self.lost = Counter[str]()  # topic -> messages lost by the middleware
        self._sequence: dict[tuple[str, bytes], int] = {}
        self.reset_monitor()

    def reset_monitor(self) -> None:
        """Starts new statistics of the streams."""
        started = time.monotonic_ns()
        self._monitor = StreamMonitor(self._streams, self.config, started, self._detector)
        self.lost.clear()
        self._first_joint_state_problem = ""

    @property
    def duration_s(self) -> float:
        """Seconds since the start of the episode, or since `reset_monitor`."""
        return (time.monotonic_ns() - self._monitor.started) / NANO

    def add_message(
        self, topic: str, stamp: int, received: int, published: int, data: bytes
    ) -> None:
        """Monitors a serialized message and, during an episode, writes it."""
        self._monitor.add_message(topic, stamp, received - stamp, time.monotonic_ns(), data)
        self.write(topic, received, published, data)

    def write(self, topic: str, received: int, published: int, data: bytes) -> None:
        """Writes a message during an episode, without monitoring it."""
        if self.writer is not None:
            self.writer.put(topic, received, published, data)

    def count_lost_messages(self, topic: str, publisher: bytes, number: int | None) -> None:
        """Counts gaps in the publisher's sequence numbers, None if it has none."""
        if number is None:
            return
        before = self._sequence.get((topic, publisher), number - 1)
        self._sequence[topic, publisher] = number
        self.lost[topic] += max(number - before - 1, 0)

    def update(self) -> bool:
        """Checks streams, disk and duration, and ends an episode that cannot continue; returns
        whether there is news to report."""
        before, last_result = self.problems, self.last_result
        self._first_joint_state_problem = (
            self._first_joint_state_problem or self.joint_state_problem
        )
        self.problems = self._find_problems()
        if self.writer is None:
            self._monitor.trim()
        elif self.writer.error:
            self._abandon()
        elif self.duration_s > self.config.max_episode_s or self._disk_problem():
            self.stop(INTERRUPTED)
        changed = list(map(without_digits, before)) != list(map(without_digits, self.problems))
        return changed or last_result != self.last_result

    def start(self, task: str, metadata: Mapping[str, str]) -> Path:
        """Starts an episode and returns its folder; raises DatasetError with all problems."""
        if self.writer is not None:
            raise DatasetError(f"{self.writer.folder.name} is being recorded; end it first")
        if problems := self._find_problems():
            raise DatasetError("; ".join(problems))
        folder = new_folder(Path(self.config.out), task)
        self.writer = AsyncEpisodeWriter(folder, {"task": task, **metadata}, self._message_types)
        self.reset_monitor()
        return folder

    def stop(self, outcome: str) -> Path | None:
        """Ends the episode and describes it in `last_result`; returns its folder, None if the
        disk failed. Raises DatasetError if nothing is being recorded."""
        if self.writer is None:
            raise DatasetError("nothing is being recorded; call recorder/start first")
        writer, duration_s, self.writer = self.writer, self.duration_s, None
        findings = self._monitor.episode_problems(time.monotonic_ns(), self._joints)
        findings += [f"{topic}: {n} messages lost" for topic, n in self.lost.items() if n]
        if self._first_joint_state_problem:
            findings.append(self._first_joint_state_problem)
        if writer.dropped:
            findings.append(f"{writer.dropped} messages were not written")
        metadata = {
            "outcome": outcome,
            "findings": "; ".join(findings),
            "streams": json.dumps(self._monitor.summary()),
            **self._unchecked(),
        }
        try:
            folder = writer.finish(metadata, discard=outcome == DISCARDED)
        except DatasetError as error:
            self.last_result = str(error)
            return None
        quality = "; ".join(findings) or "all streams good"
        if unchecked := metadata.get("content_not_checked"):
            quality += f" (content not checked: {unchecked})"
        self.last_result = f"{folder.name}: {outcome}, {duration_s:.1f} s, {quality}"
        return folder

    def status(self) -> dict[str, Any]:
        """Values for diagnostics."""
        values: dict[str, Any] = {"last_result": self.last_result, **self._unchecked()}
        values |= {f"problem.{i}": text for i, text in enumerate(self.problems)}
        values |= {f"lost.{topic}": n for topic, n in self.lost.items() if n}
        if (writer := self.writer) is not None:
            values |= {"episode": writer.folder.name, "seconds": self.duration_s}
            values |= {"megabytes": writer.size / 1e6, "not_written": writer.dropped}
            values |= {f"messages.{topic}": n for topic, n in writer.message_counts.items() if n}
        return values

    def _unchecked(self) -> dict[str, str]:
        """The cameras whose content is not checked, if there are any."""
        topics = ", ".join(self._monitor.unchecked_topics)
        return {"content_not_checked": topics} if topics else {}

    def _abandon(self) -> None:
        """Ends an episode that the disk does not take; the written part can be repaired."""
        writer, self.writer = self.writer, None
        assert writer is not None
        writer.abandon()
        self.last_result = (
            f"{writer.folder.name} ended, {writer.error}; complete it with `nac data repair`"
        )

    def _find_problems(self) -> list[str]:
        problems = self._monitor.current_problems(time.monotonic_ns())
        return [*problems, *filter(None, (self.joint_state_problem, self._disk_problem()))]

    def _disk_problem(self) -> str:
        try:
            free = free_bytes(Path(self.config.out)) / GIGA
        except DatasetError as error:
            return f"disk: {error}"
        wanted = self.config.min_free_gb
        if free >= wanted:
            return ""
        return f"disk: {free:.1f} GB free, wanted {wanted:g} GB; free disk space or change `out`"
