"""The capture gate: what is wrong with the streams of an episode, said while it can be mended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.errors import BadObservation
from nac_ros.core.message_decoding import NANO, check_image, image_header
from nac_ros.robot.frozen_images import FrozenImageDetector

STAMP_END = 12  # bytes of a serialized message up to where its header's stamp ends
REMEMBERED_S = 5.0  # how long an event is told of
KEPT = 1000  # messages of a stream that nobody records


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What makes an episode one to look at again.

    min_rate_share: of the rate that the robot's YAML promises
    max_gap_s: longest time without a message of a stream, also before its first one
    max_frozen_s: longest time of one and the same picture of a camera that has shown noise
    max_skew_s: how far stamps may lie from when messages come: another clock, or a slow way
    max_offset_s: between an image and the joint state nearest to it
    """

    min_rate_share: float = bounded(0.8, 0.0, 1.0)
    max_gap_s: float = bounded(0.5, 0.01, 60.0)
    max_frozen_s: float = bounded(0.5, 0.05, 1e5)
    max_skew_s: float = bounded(0.25, 0.001, 60.0)
    max_offset_s: float = bounded(0.02, 0.001, 1.0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """A topic that has to come all the time.

    kind: message type; rate_hz: promised; image: whether pictures can freeze
    size: width and height [pixels] of raw images, whose headers are checked; None checks none
    """

    topic: str
    kind: str
    rate_hz: float
    image: bool = False
    size: tuple[int, int] | None = None


@dataclass
class StreamStatistics:
    """Of one stream: stamps, how much later each came, and when, on a clock that nobody sets, all
    [ns]; the last picture, since when it is there, and the longest that one stood."""

    stamps: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    receipts: list[int] = field(default_factory=list)
    picture: bytes = b""
    changed: int = 0
    frozen: int = 0
    repeated: int = 0
    set_back: int = 0  # when, 0 = never
    unusable: str = ""  # why the newest image cannot be read, '' when it can
    n_unusable: int = 0  # images that cannot be read
    first_unusable: str = ""


class StreamMonitor:
    """Watches streams from `began` [ns] on, on a clock that nobody sets.

    content: knows of each topic of pictures whether its camera has noise, also from earlier
        episodes; it is told of the pictures here, and by its owner of the arm's joints. Cameras
        without noise are judged by their stamps alone, and so are all of them where it is None
    """

    def __init__(
        self,
        streams: Sequence[StreamSpec],
        config: GateConfig,
        began: int,
        content: FrozenImageDetector | None = None,
    ):
        self.config, self.began, self._content = config, began, content
        self._streams = {stream.topic: stream for stream in streams}
        self._seen = {stream.topic: StreamStatistics() for stream in streams}

    def take(self, topic: str, stamp: int, delay: int, received: int, data: bytes) -> None:
        """One message, stamped `stamp`, that came `delay` later, at `received` [ns each]."""
        seen = self._seen.get(topic)
        if seen is None:
            return
        if seen.stamps and stamp < seen.stamps[-1]:
            seen.set_back = received
        seen.stamps.append(stamp)
        seen.delays.append(delay)
        seen.receipts.append(received)
        if not self._streams[topic].image:
            return
        if (size := self._streams[topic].size) is not None:
            _check_header(seen, size, data)
        same = len(data) == len(seen.picture) and data[STAMP_END:] == seen.picture[STAMP_END:]
        seen.repeated += same
        if not same:
            seen.picture, seen.changed = data, received
        if self._content is not None:
            self._content.push_content(topic, stamp / NANO, not same)
        seen.frozen = max(seen.frozen, received - seen.changed)

    def trim(self) -> None:
        """Forgets the older messages, where no episode is to be judged."""
        for seen in self._seen.values():
            for rows in (seen.stamps, seen.delays, seen.receipts):
                del rows[:-KEPT]

    def now(self, now: int) -> list[str]:
        """What is wrong at the moment, a sentence each."""
        return [
            text for topic, seen in self._seen.items() for text in self._wrong(topic, seen, now)
        ]

    def _wrong(self, topic: str, seen: StreamStatistics, now: int) -> Iterator[str]:
        config = self.config
        last = seen.receipts[-1] if seen.receipts else self.began
        silent, frozen = (now - last) / NANO, (last - seen.changed) / NANO
        if silent > config.max_gap_s:
            what = f"no message for {silent:.1f} s" if seen.receipts else "nothing came yet"
            yield f"{topic}: {what}; is its node running?"
        if not seen.receipts:
            return
        if seen.picture and frozen > config.max_frozen_s and self._is_checked(topic):
            yield f"{topic}: the same picture for {frozen:.1f} s; is the camera stuck?"
        if seen.unusable:
            yield f"{topic}: {seen.unusable}"
        if seen.set_back and (now - seen.set_back) / NANO < REMEMBERED_S:
            yield f"{topic}: its clock was set back; discard and begin anew"
        if abs(seen.delays[-1]) / NANO > config.max_skew_s:
            yield _skewed(topic, seen.delays[-1] / NANO, config.max_skew_s)

    def verdict(self, ended: int, joints: str) -> list[str]:
        """What was wrong from `began` to `ended` [ns], a sentence each; joints: their topic."""
        found = []
        reference = np.array(self._seen[joints].stamps) if joints in self._seen else np.zeros(0)
        for topic, seen in self._seen.items():
            if not seen.receipts:
                found.append(f"{topic}: nothing came in the whole episode")
                continue
            found += self._judge(topic, seen, ended)
            if self._streams[topic].image and len(reference):
                found += self._offset(topic, np.array(seen.stamps), reference)
        return found

    @property
    def unchecked(self) -> list[str]:
        """Topics of pictures whose content is not checked: their cameras have shown no noise."""
        return [
            topic
            for topic, stream in self._streams.items()
            if stream.image and not self._is_checked(topic)
        ]

    def _is_checked(self, topic: str) -> bool:
        return self._content is not None and self._content.has_noise(topic)

    def facts(self) -> dict[str, dict[str, float]]:
        """Of each stream: messages, rate [Hz], largest gap [s], repeated pictures."""
        return {topic: _facts(seen) for topic, seen in self._seen.items()}

    def _judge(self, topic: str, seen: StreamStatistics, ended: int) -> list[str]:
        config, found = self.config, []
        stamps, receipts = np.array(seen.stamps), np.array(seen.receipts)
        promised, spent = self._streams[topic].rate_hz, max(ended - self.began, 1) / NANO
        rate = len(stamps) / spent
        if rate < config.min_rate_share * promised:
            found.append(f"{topic}: {rate:.1f} Hz, {promised:g} Hz are promised")
        gap = np.diff([self.began, *receipts, ended]).max() / NANO
        if gap > config.max_gap_s:
            found.append(f"{topic}: {gap:.2f} s without a message")
        steps = np.diff(stamps)
        if (steps == 0).any():
            found.append(f"{topic}: {int((steps == 0).sum())} stamps come twice")
        if (steps < 0).any():
            at = (receipts[1:][steps < 0][0] - self.began) / NANO
            found.append(f"{topic}: its clock was set back at {at:.1f} s")
        if seen.n_unusable:
            found.append(f"{topic}: {seen.n_unusable} unusable images: {seen.first_unusable}")
        if seen.frozen / NANO > config.max_frozen_s and self._is_checked(topic):
            found.append(f"{topic}: the same picture for {seen.frozen / NANO:.1f} s")
        worst = max(seen.delays, key=abs) / NANO
        if abs(worst) > config.max_skew_s:
            found.append(_skewed(topic, worst, config.max_skew_s))
        return found

    def _offset(self, topic: str, stamps: np.ndarray, reference: np.ndarray) -> list[str]:
        """How far images lie from their joint states, usually."""
        reference = np.sort(reference)
        right = np.searchsorted(reference, stamps).clip(1, max(len(reference) - 1, 1))
        around = reference[np.minimum([right - 1, right], len(reference) - 1)]
        offset = float(np.median(np.abs(around - stamps).min(0))) / NANO
        if offset <= self.config.max_offset_s:
            return []
        return [f"{topic}: images lie {offset:.3f} s from the nearest joint state"]


def _check_header(seen: StreamStatistics, size: tuple[int, int], data: bytes) -> None:
    """Notes whether a serialized raw image can be read and has the size that was promised."""
    try:
        header = image_header(data)
        check_image(header)
        if (header.width, header.height) != size:
            raise BadObservation(
                f"an image of {header.width}x{header.height}; the robot's YAML says "
                f"{size[0]}x{size[1]}",
                "image_size",
            )
    except BadObservation as error:
        seen.unusable = str(error)
        seen.n_unusable += 1
        seen.first_unusable = seen.first_unusable or seen.unusable
    else:
        seen.unusable = ""


def _skewed(topic: str, skew: float, limit: float) -> str:
    side = "before" if skew > 0 else "after"
    return (
        f"{topic}: stamped {abs(skew):.2f} s {side} it comes, at most {limit:g} s is allowed; "
        "check the clocks"
    )


def _facts(seen: StreamStatistics) -> dict[str, float]:
    receipts = seen.receipts
    spent = (receipts[-1] - receipts[0]) / NANO if len(receipts) > 1 else 0.0
    return {
        "messages": len(receipts),
        "rate_hz": (len(receipts) - 1) / spent if spent else 0.0,
        "largest_gap_s": float(np.diff(receipts).max()) / NANO if len(receipts) > 1 else 0.0,
        "repeated": seen.repeated,
    }
