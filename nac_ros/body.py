"""The arm's shape as the guard knows it: links, capsules around them, and where they may be.

All lengths in metres in the frame of the arm's base; a link turns or slides with its joint.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nac_ros.errors import ConfigError

BASE = "base"  # the link that never moves

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """What moves with `joint`: at `xyz` [m] and `rpy` [rad] in its parent's frame, as in URDF.

    parent: a joint before this one, or `base`; axis: of the joint, in the link's own frame
    """

    joint: str
    parent: str
    xyz: Vector
    axis: Vector
    rpy: Vector = (0.0, 0.0, 0.0)
    kind: Literal["revolute", "prismatic"] = "revolute"


@dataclass(frozen=True, kw_only=True)
class CapsuleSpec:
    """A rod with round ends around a part: from `start` to `end` in the frame of `link` [m]."""

    name: str
    link: str
    start: Vector
    end: Vector
    radius: float


@dataclass(frozen=True, kw_only=True)
class PointSpec:
    """A point of `link` at `xyz` [m] that has to stay in the workspace."""

    name: str
    link: str
    xyz: Vector


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """The workspace, `low` to `high` [m]."""

    low: Vector
    high: Vector


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """links in order, parents first; pairs: names of capsules that must not meet

    margin_m: how far beyond the box, or into one another, motion is only held back; what would
        go farther is refused, and stops the arm
    """

    links: tuple[LinkSpec, ...]
    capsules: tuple[CapsuleSpec, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    points: tuple[PointSpec, ...] = ()
    workspace: BoxSpec | None = None
    margin_m: float = 0.02

    def __post_init__(self) -> None:
        known = [BASE]
        for link in self.links:
            _check(link.parent, known, f"the parent of link {link.joint}")
            if not np.isclose(np.linalg.norm(link.axis), 1, atol=1e-3):
                raise ConfigError(f"body: the axis {link.axis} of {link.joint} is not of length 1")
            known.append(link.joint)
        for part in (*self.capsules, *self.points):
            _check(part.link, known, f"the link of {part.name}")
        for capsule in self.capsules:
            if capsule.radius <= 0:
                raise ConfigError(
                    f"body: the radius {capsule.radius} of {capsule.name} is not > 0"
                )
        names = [capsule.name for capsule in self.capsules]
        for name in (name for pair in self.pairs for name in pair):
            _check(name, names, "a capsule of a pair")
        if bool(self.points) != bool(self.workspace):
            raise ConfigError("body: a workspace needs points that stay in it, and they need it")
        if self.workspace and not (np.array(self.workspace.low) < self.workspace.high).all():
            low, high = self.workspace.low, self.workspace.high
            raise ConfigError(f"body: the workspace {low} .. {high} is empty")


def _check(name: str, known: list[str], what: str) -> None:
    if name not in known:
        raise ConfigError(f"body: {what} is '{name}', which is none of: {', '.join(known)}")
