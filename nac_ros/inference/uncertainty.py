"""What happens to a chunk in which the policy has low confidence."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nac_ros.core.config import check_fields, number_field
from nac_ros.core.types import ActionChunk
from nac_ros.inference.engine import Confidence

LowConfidenceAction = Literal["send", "slow", "replan", "stop"]


@dataclass(frozen=True, kw_only=True)
class LowConfidenceConfig:
    """What happens to a chunk of low confidence.

    on_low_confidence: send = send the chunk unchanged; slow = send it stretched in time; replan =
        discard it and predict again; stop = discard it and stop predicting
    max_entropy: confidence is low above this mean token entropy [nats]; 0 = no limit
    min_margin: confidence is low if the margin of any token is below
    slow_scale: speed of a stretched chunk as a share of its own
    """

    on_low_confidence: LowConfidenceAction = "send"
    max_entropy: float = number_field(0.0, 0.0, 100.0)
    min_margin: float = number_field(0.0, 0.0, 1.0)
    slow_scale: float = number_field(0.3, 0.05, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)

    def low_confidence_reason(self, confidence: Confidence) -> str:
        """Which limit is violated, or '' if none is or no token was sampled."""
        entropy, margin = confidence.entropy, confidence.margin
        if entropy is None or margin is None:
            return ""
        if self.max_entropy and entropy > self.max_entropy:
            return f"low confidence: entropy {entropy:.2f} nats, above {self.max_entropy}"
        if margin < self.min_margin:
            return f"low confidence: margin {margin:.3f}, below {self.min_margin}"
        return ""


def time_stretched(chunk: ActionChunk, start: np.ndarray, scale: float) -> ActionChunk:
    """The same path from joint positions `start` `[D]` on, at `scale` of the speed."""
    steps = np.arange(len(chunk.actions) + 1)
    rows = np.concatenate([start[None], chunk.actions])
    columns = [np.interp(scale * steps[1:], steps, column) for column in rows.T]
    return replace(chunk, actions=np.stack(columns, 1).astype(np.float32))
