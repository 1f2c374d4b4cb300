"""Episodes one after the other: streams watched, takes begun and ended, the disk minded."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nac_ros.core.config import bounded
from nac_ros.core.errors import DatasetError
from nac_ros.core.files import free_bytes
from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap.async_writer import AsyncEpisodeWriter, new_folder
from nac_ros.datasets.mcap.stream_monitor import GateConfig, StreamMonitor, StreamSpec
from nac_ros.datasets.mcap.topics import RecordedTopic
from nac_ros.robot.frozen_images import FrozenImageDetector

GIGA = 1e9
INTERRUPTED = "interrupted"  # the outcome of an episode that nobody judged
DISCARDED = "discarded"


@dataclass(frozen=True, kw_only=True)
class SessionConfig(GateConfig):
    """The gate's limits, and:

    out: folder of episodes
    min_free_gb: less room on the disk ends an episode, and none is begun
    max_episode_s: a longer one is taken for forgotten, and kept as it is then
    """

    out: str = "data/episodes"
    min_free_gb: float = bounded(2.0, 0.0, 1e6)
    max_episode_s: float = bounded(600.0, 1.0, 1e6)


class EpisodeRecorder:
    """What a recorder knows and does, without ROS; times [ns], `now` on a clock that nobody sets.

    wrong: what is wrong at present, a sentence each; last: what became of the last episode
    joints_wrong: what the node found wrong with the content of joint states, '' when nothing is
    content: see Gate; the node tells it the arm's joints
    """

    def __init__(
        self, config: SessionConfig, watched: Sequence[StreamSpec], sources: Sequence[RecordedTopic],
        joints: str, content: FrozenImageDetector | None = None,
    ):  # fmt: skip
        self._content = content
        self.config, self._watched, self._joints = config, watched, joints
        self._kinds = {source.topic: source.kind for source in sources}
        self.take: AsyncEpisodeWriter | None = None
        self.wrong, self.last = list[str](), ""
        self.joints_wrong = ""
        self.lost = Counter[str]()
        self._sequence: dict[tuple[str, bytes], int] = {}
        self.watch()

    def watch(self) -> None:
        """Forgets what was seen of the streams."""
        self._gate = StreamMonitor(self._watched, self.config, time.monotonic_ns(), self._content)
        self.lost.clear()
        self._joints_found = ""  # what was wrong with joint states first

    @property
    def seconds(self) -> float:
        """Since streams are watched anew, as at an episode's begin."""
        return (time.monotonic_ns() - self._gate.began) / NANO

    def see(self, topic: str, stamp: int, received: int, published: int, data: bytes) -> None:
        """One serialized message of a topic: watched, and written where an episode runs."""
        self._gate.take(topic, stamp, received - stamp, time.monotonic_ns(), data)
        self.write(topic, received, published, data)

    def write(self, topic: str, received: int, published: int, data: bytes) -> None:
        """What is written but not watched."""
        if self.take is not None:
            self.take.put(topic, received, published, data)

    def count(self, topic: str, publisher: bytes, number: int | None) -> None:
        """What the middleware lost on the way, by the publisher's own count."""
        if number is None:
            return
        before = self._sequence.get((topic, publisher), number - 1)
        self._sequence[topic, publisher] = number
        self.lost[topic] += max(number - before - 1, 0)

    def look(self) -> bool:
        """Judges streams, disk and time, and ends an episode that cannot go on; whether there is
        something new to say."""
        before, ended = self.wrong, self.last
        if self.joints_wrong and not self._joints_found:
            self._joints_found = self.joints_wrong
        self.wrong = self._wrong()
        if self.take is None:
            self._gate.trim()
        else:
            if self.take.trouble:
                self._give_up(self.take.trouble)
            elif self.seconds > self.config.max_episode_s or self._room():
                self.end(INTERRUPTED)
        return ended != self.last or _letters(before) != _letters(self.wrong)

    def begin(self, task: str, facts: Mapping[str, str]) -> Path:
        """Starts an episode; raises DatasetError with all that is wrong."""
        if self.take is not None:
            raise DatasetError(f"{self.take.folder.name} is being recorded; end it first")
        if wrong := self._wrong():
            raise DatasetError("; ".join(wrong))
        folder = new_folder(Path(self.config.out), task)
        self.take = AsyncEpisodeWriter(folder, {"task": task, **facts}, self._kinds)
        self.watch()
        return folder

    def end(self, outcome: str) -> Path | None:
        """Ends the episode, and says in `last` what the gate thinks of it; None where the disk
        did not let it. Raises DatasetError where there is none."""
        if self.take is None:
            raise DatasetError("nothing is being recorded; call recorder/start first")
        take, seconds, self.take = self.take, self.seconds, None
        findings = self._gate.verdict(time.monotonic_ns(), self._joints)
        findings += [f"{topic}: {n} lost on the way" for topic, n in self.lost.items() if n]
        findings += [self._joints_found] if self._joints_found else []
        findings += [f"{take.lost} messages were not written"] if take.lost else []
        facts = {"outcome": outcome, "findings": "; ".join(findings)}
        facts["streams"] = json.dumps(self._gate.facts())
        facts |= self._unchecked()
        try:
            place = (take.discard if outcome == DISCARDED else take.finish)(facts)
        except DatasetError as error:
            self.last = str(error)
            return None
        verdict = "; ".join(findings) or "all streams as promised"
        if unchecked := facts.get("content_not_checked"):
            verdict += f" (content not checked: {unchecked})"
        self.last = f"{place.name}: {outcome}, {seconds:.1f} s, {verdict}"
        return place

    def status(self) -> dict[str, Any]:
        """For diagnostics."""
        values: dict[str, Any] = {"last": self.last, **self._unchecked()}
        values |= {f"wrong.{i}": text for i, text in enumerate(self.wrong)}
        values |= {f"lost.{topic}": n for topic, n in self.lost.items() if n}
        if (take := self.take) is not None:
            values |= {"episode": take.folder.name, "seconds": self.seconds}
            values |= {"megabytes": take.size / 1e6, "not_written": take.lost}
            values |= {f"messages.{topic}": n for topic, n in take.messages.items() if n}
        return values

    def _unchecked(self) -> dict[str, str]:
        """Of which pictures the content is not checked, where there are any."""
        topics = ", ".join(self._gate.unchecked)
        return {"content_not_checked": topics} if topics else {}

    def _give_up(self, why: str) -> None:
        """The disk takes no more; what is on it can be repaired."""
        take, self.take = self.take, None
        assert take is not None
        take.abandon()
        self.last = f"{take.folder.name} ended, {why}; `nac data repair` completes what is there"

    def _wrong(self) -> list[str]:
        joints = [self.joints_wrong] if self.joints_wrong else []
        return [*self._gate.now(time.monotonic_ns()), *joints, *self._room()]

    def _room(self) -> list[str]:
        """What is wrong with the disk."""
        try:
            free = free_bytes(Path(self.config.out)) / GIGA
        except DatasetError as error:
            return [f"disk: {error}"]
        if free >= self.config.min_free_gb:
            return []
        wanted = self.config.min_free_gb
        return [f"disk: {free:.1f} GB free, {wanted:g} are wanted; make room or change `out`"]


def _letters(texts: Sequence[str]) -> list[str]:
    """Sentences without their numbers, which change all the time."""
    return ["".join(letter for letter in text if not letter.isdigit()) for text in texts]
