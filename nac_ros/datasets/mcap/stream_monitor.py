"""Online quality checks of recorded streams: rate, gaps, frozen or unreadable images, clocks.

Problems are reported while the operator can still repeat the episode, and kept with the episode.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.errors import BadObservation
from nac_ros.core.message_decoding import NANO, check_image, image_header
from nac_ros.robot.frozen_images import FrozenImageDetector

STAMP_END = 12  # bytes of a serialized message up to the end of its header's stamp
CLOCK_REPORT_S = 5.0  # how long a clock that was set back is reported
KEPT = 1000  # messages of each stream that are kept while nothing is recorded


@dataclass(frozen=True, kw_only=True)
class StreamMonitorConfig:
    """Limits beyond which a stream is reported.

    min_rate_share: lowest rate as a share of the rate in the robot's YAML
    max_gap_s: longest time without a message, also before the first one
    max_frozen_s: longest time with the same image, for a camera that has shown noise
    max_skew_s: largest difference between stamps and receipt: another clock, or a slow network
    max_offset_s: largest time between an image and the nearest joint state
    """

    min_rate_share: float = number_field(0.8, 0.0, 1.0)
    max_gap_s: float = number_field(0.5, 0.01, 60.0)
    max_frozen_s: float = number_field(0.5, 0.05, 1e5)
    max_skew_s: float = number_field(0.25, 0.001, 60.0)
    max_offset_s: float = number_field(0.02, 0.001, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """A topic that an episode needs.

    rate_hz: expected rate; image: whether its images can freeze
    size: width and height [pixels] of raw images, whose headers are checked; None checks none
    """

    topic: str
    message_type: str
    rate_hz: float
    image: bool = False
    size: tuple[int, int] | None = None


@dataclass
class StreamStatistics:
    """Statistics of one stream.

    stamps, delays, received: header stamps, receipt minus stamp, and monotonic receive times [ns]
    last_image, image_since: the newest image, and since when it is unchanged [ns]
    longest_frozen: longest interval with an unchanged image [ns]; repeated_images: number of them
    clock_set_back: when a stamp was before its predecessor [ns], 0 = never
    unreadable: why the newest image cannot be read, '' if it can
    unreadable_images: the reason for each image that cannot be read
    """

    stamps: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    last_image: bytes = b""
    image_since: int = 0
    longest_frozen: int = 0
    repeated_images: int = 0
    clock_set_back: int = 0
    unreadable: str = ""
    unreadable_images: list[str] = field(default_factory=list)

    def check_header(self, size: tuple[int, int], data: bytes) -> None:
        """Notes whether a serialized raw image is readable and has the expected size."""
        self.unreadable = ""
        try:
            header = image_header(data)
            check_image(header)
        except BadObservation as error:
            self.unreadable = str(error)
        else:
            found, wanted = f"{header.width}x{header.height}", f"{size[0]}x{size[1]}"
            if found != wanted:
                self.unreadable = f"an image of {found}; the robot's YAML says {wanted}"
        if self.unreadable:
            self.unreadable_images.append(self.unreadable)

    def compare_image(self, data: bytes, received: int) -> bool:
        """Whether the image differs from the one before, apart from its stamp."""
        before = self.last_image
        same = len(data) == len(before) and data[STAMP_END:] == before[STAMP_END:]
        self.repeated_images += same
        if not same:
            self.last_image, self.image_since = data, received
        self.longest_frozen = max(self.longest_frozen, received - self.image_since)
        return not same

    def summary(self) -> dict[str, float]:
        """Messages, rate [Hz], largest gap [s] and repeated images."""
        gaps = np.diff(self.received) / NANO
        return {
            "messages": len(self.received),
            "rate_hz": float(len(gaps) / gaps.sum()) if gaps.any() else 0.0,
            "largest_gap_s": float(gaps.max(initial=0.0)),
            "repeated": self.repeated_images,
        }


class StreamMonitor:
    """Monitors streams from `started` on, a monotonic time [ns].

    detector: knows which cameras have noise, also from earlier episodes. It gets the images here
        and the arm's joint states from its owner. A camera without noise is checked by its stamps
        alone; without a detector all cameras are.
    """

    def __init__(
        self,
        streams: Sequence[StreamSpec],
        config: StreamMonitorConfig,
        started: int,
        detector: FrozenImageDetector | None = None,
    ):
        self.config, self.started, self._detector = config, started, detector
        self._streams = {stream.topic: stream for stream in streams}
        self._statistics = {stream.topic: StreamStatistics() for stream in streams}

    def add_message(self, topic: str, stamp: int, delay: int, received: int, data: bytes) -> None:
        """One message with header `stamp`, `delay` between stamp and receipt, and the monotonic
        time of receipt [ns each]."""
        statistics = self._statistics.get(topic)
        if statistics is None:
            return
        if statistics.stamps and stamp < statistics.stamps[-1]:
            statistics.clock_set_back = received
        statistics.stamps.append(stamp)
        statistics.delays.append(delay)
        statistics.received.append(received)
        stream = self._streams[topic]
        if not stream.image:
            return
        if stream.size is not None:
            statistics.check_header(stream.size, data)
        differs = statistics.compare_image(data, received)
        if self._detector is not None:
            self._detector.add_comparison(topic, stamp / NANO, differs)

    def trim(self) -> None:
        """Drops all but the newest messages, while nothing is recorded."""
        for rows in self._statistics.values():
            for kept in (rows.stamps, rows.delays, rows.received, rows.unreadable_images):
                del kept[:-KEPT]

    def current_problems(self, now: int) -> list[str]:
        """The problems at the monotonic time `now` [ns], a sentence each."""
        return [text for topic in self._streams for text in self._problems_now(topic, now)]

    def _problems_now(self, topic: str, now: int) -> Iterator[str]:
        config, statistics = self.config, self._statistics[topic]
        last = statistics.received[-1] if statistics.received else self.started
        silent_s = (now - last) / NANO
        if silent_s > config.max_gap_s:
            what = f"no message for {silent_s:.1f} s" if statistics.received else "no message yet"
            yield f"{topic}: {what}; is its node running?"
        if not statistics.received:
            return
        frozen_s = (last - statistics.image_since) / NANO
        if statistics.last_image and frozen_s > config.max_frozen_s and self._is_checked(topic):
            yield f"{topic}: the same image for {frozen_s:.1f} s; is the camera frozen?"
        if statistics.unreadable:
            yield f"{topic}: {statistics.unreadable}"
        set_back = statistics.clock_set_back
        if set_back and (now - set_back) / NANO < CLOCK_REPORT_S:
            yield f"{topic}: its clock was set back; discard the episode and start again"
        yield from self._skew(topic, statistics.delays[-1])

    def episode_problems(self, ended: int, joints: str) -> list[str]:
        """The problems from `started` to `ended` [ns], a sentence each.

        joints: topic of the joint states
        """
        found = []
        reference = self._statistics[joints].stamps if joints in self._statistics else []
        for topic, statistics in self._statistics.items():
            if not statistics.received:
                found.append(f"{topic}: no message in the whole episode")
                continue
            found += self._stream_problems(topic, statistics, ended)
            if self._streams[topic].image and reference:
                found += self._offset(topic, np.array(statistics.stamps), np.sort(reference))
        return found

    def _stream_problems(
        self, topic: str, statistics: StreamStatistics, ended: int
    ) -> Iterator[str]:
        config = self.config
        received = np.array(statistics.received)
        expected, duration = self._streams[topic].rate_hz, max(ended - self.started, 1) / NANO
        rate = len(received) / duration
        if rate < config.min_rate_share * expected:
            yield f"{topic}: {rate:.1f} Hz, expected {expected:g} Hz"
        gap = np.diff([self.started, *received, ended]).max() / NANO
        if gap > config.max_gap_s:
            yield f"{topic}: {gap:.2f} s without a message"
        steps = np.diff(statistics.stamps)
        if (steps == 0).any():
            yield f"{topic}: {int((steps == 0).sum())} stamps come twice"
        if (steps < 0).any():
            at = (received[1:][steps < 0][0] - self.started) / NANO
            yield f"{topic}: its clock was set back at {at:.1f} s"
        if reasons := statistics.unreadable_images:
            yield f"{topic}: {len(reasons)} unreadable images: {reasons[0]}"
        frozen_s = statistics.longest_frozen / NANO
        if frozen_s > config.max_frozen_s and self._is_checked(topic):
            yield f"{topic}: the same image for {frozen_s:.1f} s"
        yield from self._skew(topic, max(statistics.delays, key=abs))

    def _skew(self, topic: str, delay: int) -> Iterator[str]:
        skew, limit = delay / NANO, self.config.max_skew_s
        if abs(skew) > limit:
            side = "before" if skew > 0 else "after"
            yield (
                f"{topic}: stamped {abs(skew):.2f} s {side} receipt, at most {limit:g} s is "
                "allowed; check the clocks"
            )

    def _offset(self, topic: str, stamps: np.ndarray, reference: np.ndarray) -> Iterator[str]:
        """Median time between an image and the nearest joint state; `reference`: their sorted
        stamps [ns]."""
        last = len(reference) - 1
        right = np.searchsorted(reference, stamps).clip(1, max(last, 1))
        around = reference[np.minimum([right - 1, right], last)]  # [2, N]
        offset = float(np.median(np.abs(around - stamps).min(0))) / NANO
        if offset > self.config.max_offset_s:
            yield f"{topic}: images are {offset:.3f} s from the nearest joint state"

    @property
    def unchecked_topics(self) -> list[str]:
        """Camera topics whose content is not checked, because the cameras have shown no noise."""
        return [
            t for t, stream in self._streams.items() if stream.image and not self._is_checked(t)
        ]

    def _is_checked(self, topic: str) -> bool:
        return self._detector is not None and self._detector.has_noise(topic)

    def summary(self) -> dict[str, dict[str, float]]:
        """Topic -> messages, rate [Hz], largest gap [s], repeated images."""
        return {topic: statistics.summary() for topic, statistics in self._statistics.items()}
