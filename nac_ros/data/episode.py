"""One episode in memory, and the line that a dataset's table of contents has for it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class EpisodeInfo(NamedTuple):
    """What is known of an episode without reading it: number of frames T, and its task."""

    length: int
    task: str


@dataclass(frozen=True)
class Episode:
    """T frames at a dataset's rate; frame k is what was seen at k / fps [s].

    proprio: float32 `[T, S]`, joint state at each frame; S = 0 where none was recorded
    actions: float32 `[T, D]`, set-point to be reached one frame later
    images: camera -> uint8 `[T, H, W, 3]` RGB
    success: None where nobody judged the episode
    stamps_ns: int64 `[T]`, true time of each frame; ages_ms: camera -> float32 `[T]`, how much
        older its image is; intervention: bool `[T]`, where a hand had taken over; None or empty
        where nobody noted them
    """

    proprio: np.ndarray
    actions: np.ndarray
    task: str
    images: dict[str, np.ndarray] = field(default_factory=dict)
    success: bool | None = None
    stamps_ns: np.ndarray | None = None
    ages_ms: dict[str, np.ndarray] = field(default_factory=dict)
    intervention: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)
