"""The arm's shape as the guard knows it: links, capsules around them, and where they may be.

All lengths in metres in the frame of the arm's base; a link turns or slides with its joint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nac_ros.core.config import (
    JOINT_NAME,
    LABEL,
    REQUIRED,
    check_fields,
    check_unique,
    number_field,
    sequence_field,
    text_field,
)
from nac_ros.core.errors import FieldError, show_text

BASE = "base"  # the link that never moves
TURN = 6.3  # rad, a little more than once round

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """What moves with `joint`: at `xyz` [m] and `rpy` [rad] in its parent's frame, as in URDF.

    parent: a joint before this one, or `base`; axis: of the joint, in the link's own frame, of
        length 1; xyz: each in -10 .. 10 m; rpy: each in -6.3 .. 6.3 rad
    """

    joint: str = text_field(REQUIRED, JOINT_NAME)
    parent: str = text_field(REQUIRED, JOINT_NAME)
    xyz: Vector = number_field(REQUIRED, -10.0, 10.0, unit="m")
    axis: Vector = number_field(REQUIRED, -100.0, 100.0)
    rpy: Vector = number_field((0.0, 0.0, 0.0), -TURN, TURN, unit="rad")
    kind: Literal["revolute", "prismatic"] = "revolute"

    def __post_init__(self) -> None:
        check_fields(self)
        if not np.isclose(np.linalg.norm(self.axis), 1, atol=1e-3):
            problem = f"the axis {self.axis} of {self.joint} is not of length 1; divide it by its"
            raise FieldError(f"{problem} length", ("axis",), owner="body")


@dataclass(frozen=True, kw_only=True)
class CapsuleSpec:
    """A rod with round ends around a part: from `start` to `end` in the frame of `link` [m].

    start, end: each number in -10 .. 10 m; radius: 0.001 .. 2 m
    """

    name: str = text_field(REQUIRED, LABEL)
    link: str = text_field(REQUIRED, JOINT_NAME)
    start: Vector = number_field(REQUIRED, -10.0, 10.0, unit="m")
    end: Vector = number_field(REQUIRED, -10.0, 10.0, unit="m")
    radius: float = number_field(REQUIRED, 0.001, 2.0, unit="m")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class PointSpec:
    """A point of `link` at `xyz`, each in -10 .. 10 m, that has to stay in the workspace."""

    name: str = text_field(REQUIRED, LABEL)
    link: str = text_field(REQUIRED, JOINT_NAME)
    xyz: Vector = number_field(REQUIRED, -10.0, 10.0, unit="m")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class BoxSpec:
    """The workspace, `low` to `high`, each number in -100 .. 100 m and low below high."""

    low: Vector = number_field(REQUIRED, -100.0, 100.0, unit="m")
    high: Vector = number_field(REQUIRED, -100.0, 100.0, unit="m")

    def __post_init__(self) -> None:
        check_fields(self)
        for axis, (low, high) in enumerate(zip(self.low, self.high)):
            if not low < high:
                problem = f"must be above low, the workspace {low} .. {high} is empty"
                raise FieldError(problem, ("high", axis), owner="body")


@dataclass(frozen=True, kw_only=True)
class BodySpec:
    """links in order, parents first; pairs: names of capsules that must not meet

    links, capsules: at most 64 each; pairs: at most 512; points: at most 64
    margin_m: how far beyond the box, or into one another, motion is only held back; what would
        go farther is refused, and stops the arm; 0 .. 0.5 m
    """

    links: tuple[LinkSpec, ...] = sequence_field(REQUIRED, 0, 64)
    capsules: tuple[CapsuleSpec, ...] = sequence_field((), 0, 64)
    pairs: tuple[tuple[str, str], ...] = text_field((), LABEL, 0, 512)
    points: tuple[PointSpec, ...] = sequence_field((), 0, 64)
    workspace: BoxSpec | None = None
    margin_m: float = number_field(0.02, 0.0, 0.5, unit="m")

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_tree()
        self._check_pairs()
        if bool(self.points) != bool(self.workspace):
            problem = "a workspace needs points that stay in it, and they need it"
            raise FieldError(problem, owner="body")

    def _check_tree(self) -> None:
        """Parents come first, so that there is no circle, and every part is on a known link."""
        known = [BASE]
        for index, link in enumerate(self.links):
            place = ("links", index)
            _check(link.parent, known, f"the parent of link {link.joint}", (*place, "parent"))
            if link.joint in known:
                problem = f"the link '{link.joint}' is there before; name each joint once"
                raise FieldError(problem, (*place, "joint"), owner="body")
            known.append(link.joint)
        for field in ("capsules", "points"):
            parts = getattr(self, field)
            check_unique(field, [part.name for part in parts])
            for index, part in enumerate(parts):
                _check(part.link, known, f"the link of {part.name}", (field, index, "link"))

    def _check_pairs(self) -> None:
        names = [capsule.name for capsule in self.capsules]
        for index, pair in enumerate(self.pairs):
            for side, name in enumerate(pair):
                _check(name, names, "a capsule of a pair", ("pairs", index, side))
            if pair[0] == pair[1]:
                problem = f"the capsule '{pair[0]}' cannot meet itself; name two"
                raise FieldError(problem, ("pairs", index), owner="body")
        check_unique("pairs", [tuple(sorted(pair)) for pair in self.pairs])


def _check(name: str, known: Sequence[str], what: str, path: tuple[Any, ...]) -> None:
    if name not in known:
        names = show_text(", ".join(known) or "none", 400)
        raise FieldError(f"{what} is '{name}', which is none of: {names}", path, owner="body")
