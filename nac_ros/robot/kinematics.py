"""Where the arm's parts are: how far out of the workspace, and how near to one another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nac_ros.robot.geometry import BASE, BodySpec, LinkSpec
from nac_ros.robot.spec import RobotSpec

AXES = "xyz"


class Violation(NamedTuple):
    """The worst of a pose: a reason code, how deep [m] (negative inside), and between what."""

    reason: str
    depth: float
    text: str


class CollisionModel:
    """Forward kinematics of a body for joint positions `[N, D]`; all numpy, no loop over N."""

    def __init__(self, spec: RobotSpec, body: BodySpec):
        self._body = body
        self._chain = _Chain(body.links, spec)
        self._order = {link.joint: i + 1 for i, link in enumerate(body.links)} | {BASE: 0}
        self._ends = np.array([[c.start, c.end] for c in body.capsules]).reshape(-1, 2, 3)
        self._capsule_links = [self._order[c.link] for c in body.capsules]
        names = [c.name for c in body.capsules]
        self._pairs = np.array([[names.index(n) for n in pair] for pair in body.pairs], int)
        self._pairs = self._pairs.reshape(-1, 2)
        radii = np.array([c.radius for c in body.capsules])
        self._reach = radii[self._pairs].sum(1)
        self._points = np.array([p.xyz for p in body.points]).reshape(-1, 3)
        self._point_links = [self._order[p.link] for p in body.points]

    def frames(self, positions: np.ndarray) -> np.ndarray:
        """Poses of base and links at joint `positions` `[N, D]`: `[N, L + 1, 4, 4]`."""
        rows = np.asarray(positions, float)
        moved = self._chain.moved(rows)
        frames = np.empty((len(rows), moved.shape[1] + 1, 4, 4))
        frames[:, 0] = np.eye(4)
        for i, link in enumerate(self._body.links):
            frames[:, i + 1] = frames[:, self._order[link.parent]] @ moved[:, i]
        return frames

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Where the body's points are [m], `[N, P, 3]`."""
        return _placed(self.frames(positions)[:, self._point_links], self._points[:, None])[
            :, :, 0
        ]

    def worst_violation(self, positions: np.ndarray) -> tuple[np.ndarray, list[Violation]]:
        """How deep [m] each of `positions` `[N, D]` is out of the workspace or in itself, `[N]`,
        negative where neither; and the worst breach of the deepest one, [] without any check."""
        frames = self.frames(positions)
        depths = np.concatenate([self._outside(frames), self._inside(frames)], 1)
        if not depths.shape[1]:
            return np.full(len(depths), -np.inf), []
        row, which = np.unravel_index(depths.argmax(), depths.shape)
        return depths.max(1), [self._breach(int(which), float(depths[row, which]))]

    def _outside(self, frames: np.ndarray) -> np.ndarray:
        """How far each point is beyond each face of the workspace, `[N, P * 6]`."""
        box = self._body.workspace
        if box is None:
            return np.empty((len(frames), 0))
        places = _placed(frames[:, self._point_links], self._points[:, None])[:, :, 0]
        beyond = np.concatenate([np.array(box.low) - places, places - np.array(box.high)], -1)
        return beyond.reshape(len(frames), -1)

    def _inside(self, frames: np.ndarray) -> np.ndarray:
        """How deep the capsules of each pair are in one another, `[N, pairs]`."""
        if not len(self._pairs):
            return np.empty((len(frames), 0))
        ends = _placed(frames[:, self._capsule_links], self._ends)  # [N, C, 2, 3]
        first, second = ends[:, self._pairs[:, 0]], ends[:, self._pairs[:, 1]]
        return self._reach - _segments_apart(first, second)

    def _breach(self, which: int, depth: float) -> Violation:
        faces = 6 * len(self._points)
        if which < faces:
            point, face = self._body.points[which // 6], which % 6
            side = f"{'below' if face < 3 else 'above'} the workspace in {AXES[face % 3]}"
            return Violation("workspace", depth, f"{point.name} {depth:.3f} m {side}")
        first, second = self._body.pairs[which - faces]
        return Violation("self_collision", depth, f"{first} {depth:.3f} m into {second}")


class _Chain:
    """Every link's pose in its parent's frame as the joints move."""

    def __init__(self, links: Sequence[LinkSpec], spec: RobotSpec):
        self._columns = [spec.joint_names.index(link.joint) for link in links]
        self._turns = np.array([link.kind == "revolute" for link in links])
        self._axes = np.array([link.axis for link in links], float).reshape(-1, 3)
        self._cross = np.array([_cross(axis) for axis in self._axes]).reshape(-1, 3, 3)
        self._fixed = np.tile(np.eye(4), (len(links), 1, 1))
        for pose, link in zip(self._fixed, links):
            roll, pitch, yaw = (_turn(_cross(np.eye(3)[k]), link.rpy[k]) for k in range(3))
            pose[:3, :3], pose[:3, 3] = yaw @ pitch @ roll, link.xyz

    def moved(self, rows: np.ndarray) -> np.ndarray:
        """At joint positions `[N, D]`: `[N, L, 4, 4]`."""
        at = rows[:, self._columns]  # [N, L]
        poses = np.zeros((*at.shape, 4, 4))
        poses[..., :3, :3] = _turn(self._cross, (at * self._turns)[..., None, None])
        poses[..., :3, 3] = (at * ~self._turns)[..., None] * self._axes
        poses[..., 3, 3] = 1
        return self._fixed @ poses


def _cross(axis: np.ndarray) -> np.ndarray:
    x, y, z = axis
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _turn(cross: np.ndarray, angles: np.ndarray | float) -> np.ndarray:
    """Rotation by `angles` [rad], after Rodrigues, about the axis whose cross product it is."""
    return np.eye(3) + np.sin(angles) * cross + (1 - np.cos(angles)) * (cross @ cross)


def _placed(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places `[C, K, 3]` in frames `[N, C, 4, 4]` -> in the base's frame `[N, C, K, 3]`."""
    turned = np.einsum("ncij,ckj->ncki", frames[..., :3, :3], places)
    return turned + frames[..., None, :3, 3]


def _segments_apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Least distances between segments `[..., 2, 3]` (Ericson, Real-Time Collision Detection,
    5.1.9), with ends clamped one after the other."""
    p, q = first[..., 0, :], second[..., 0, :]
    u, v = first[..., 1, :] - p, second[..., 1, :] - q
    w = p - q
    a, b, c = _dot(u, u), _dot(u, v), _dot(v, v)
    d, e = _dot(u, w), _dot(v, w)
    span = a * c - b * b
    s = np.clip(np.divide(b * e - c * d, span, out=np.zeros_like(span), where=span > 1e-12), 0, 1)
    t = np.divide(b * s + e, c, out=np.zeros_like(c), where=c > 1e-12)
    beyond = np.clip(t, 0, 1)
    again = np.divide(b * beyond - d, a, out=np.zeros_like(a), where=a > 1e-12)
    s = np.where(t == beyond, s, np.clip(again, 0, 1))
    return np.linalg.norm(w + s[..., None] * u - beyond[..., None] * v, axis=-1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1)
