"""What is done with a chunk that the policy is not sure of."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nac_ros.core.config import bounded, check_bounds
from nac_ros.core.types import ActionChunk
from nac_ros.inference.engine import Confidence

LowConfidenceAction = Literal["send", "slow", "replan", "stop"]


@dataclass(frozen=True, kw_only=True)
class LowConfidenceConfig:
    """unsure: what is done with an unsure chunk: sent as it is; stretched in time; not sent, and
    planned anew; or not sent, and nothing more planned

    max_entropy: mean entropy [nats] of its tokens above which a chunk is unsure; 0 = never
    min_margin: lead of its least sure token over the next likeliest below which it is unsure
    slow_scale: share of its speed that an unsure chunk gets
    """

    on_low_confidence: LowConfidenceAction = "send"
    max_entropy: float = bounded(0.0, 0.0, 100.0)
    min_margin: float = bounded(0.0, 0.0, 1.0)
    slow_scale: float = bounded(0.3, 0.05, 1.0)

    def __post_init__(self) -> None:
        check_bounds(self)

    def low_confidence_reason(self, certainty: Confidence) -> str:
        """What is doubtful in words, or '' where nothing is, or nobody drew."""
        entropy, margin = certainty.entropy, certainty.margin
        if entropy is None or margin is None:
            return ""
        if self.max_entropy and entropy > self.max_entropy:
            return f"unsure: entropy {entropy:.2f} nats, above {self.max_entropy}"
        if margin < self.min_margin:
            return f"unsure: margin {margin:.3f}, below {self.min_margin}"
        return ""


def time_stretched(chunk: ActionChunk, start: np.ndarray, scale: float) -> ActionChunk:
    """The same way at `scale` of the speed, from joint positions `start` `[D]` on."""
    steps = np.arange(len(chunk.actions) + 1)
    rows = np.concatenate([start[None], chunk.actions])
    columns = [np.interp(scale * steps[1:], steps, column) for column in rows.T]
    return replace(chunk, actions=np.stack(columns, 1).astype(np.float32))
