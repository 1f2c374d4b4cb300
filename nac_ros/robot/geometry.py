"""Collision geometry of a robot: links, capsules around them, and the workspace; from its YAML.

Lengths are in metres. A link rotates or slides with its joint.
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

BASE = "base"  # the link that does not move
TURN = 6.3  # rad, a little more than a full turn

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """The link that `joint` moves: its pose in the parent's frame and its axis, as in URDF.

    parent: the joint of a link before this one, or `base`
    xyz: each in -10 .. 10 m; rpy: roll, pitch, yaw, each in -6.3 .. 6.3 rad
    axis: of the joint, in the frame of the link, of length 1
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
            problem = f"the axis {self.axis} of {self.joint} is not of length 1; normalise it"
            raise FieldError(problem, ("axis",), owner="body")


@dataclass(frozen=True, kw_only=True)
class CapsuleSpec:
    """A capsule around a part of the robot, from `start` to `end` in the frame of `link` [m].

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
    """A point at `xyz` in the frame of `link`, each in -10 .. 10 m, that has to stay in the
    workspace."""

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
    """Links, collision capsules and workspace of a robot.

    links: at most 64, parents first; capsules: at most 64
    pairs: names of two capsules that must not collide, at most 512
    points: at most 64, needed with a workspace
    margin_m: 0 .. 0.5 m; a chunk that violates workspace or pairs by up to this depth is cut off
        there, a deeper one is rejected, and an arm that is deeper is stopped
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
            problem = "points and workspace are needed together; add the other one"
            raise FieldError(problem, owner="body")

    def _check_tree(self) -> None:
        """Parents come first, so the links form a tree, and every part belongs to a known link."""
        known = [BASE]
        for index, link in enumerate(self.links):
            path = ("links", index)
            _check(link.parent, known, f"the parent of link {link.joint}", (*path, "parent"))
            if link.joint in known:
                problem = f"the link '{link.joint}' is listed before; list each joint once"
                raise FieldError(problem, (*path, "joint"), owner="body")
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
                problem = f"the capsule '{pair[0]}' cannot collide with itself; name two"
                raise FieldError(problem, ("pairs", index), owner="body")
        check_unique("pairs", [tuple(sorted(pair)) for pair in self.pairs])


def _check(name: str, known: Sequence[str], what: str, path: tuple[Any, ...]) -> None:
    if name not in known:
        names = show_text(", ".join(known) or "none", 400)
        raise FieldError(f"{what} is '{name}', which is not one of: {names}", path, owner="body")
